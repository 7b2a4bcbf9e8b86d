"""The few AML constructs (ACPI 6.4, chapter 20) that describe devices without methods."""

from __future__ import annotations

import struct

END_TAG = b"\x79\x00"


def name_string(name: str) -> bytes:
    """A 4-character name segment, or a root path such as `\\_SB_`."""
    root = b"\\" if name.startswith("\\") else b""
    segment = name.removeprefix("\\").ljust(4, "_").encode()
    return root + segment


def integer(value: int) -> bytes:
    if value in (0, 1):
        return bytes([value])
    for prefix, size in ((0x0A, 1), (0x0B, 2), (0x0C, 4), (0x0E, 8)):
        if value < 1 << 8 * size:
            return bytes([prefix]) + value.to_bytes(size, "little")
    raise ValueError(f"integer {value:#x} needs more than 64 bits")


def string(text: str) -> bytes:
    return b"\x0d" + text.encode("ascii") + b"\0"


def package(*elements: bytes) -> bytes:
    return b"\x12" + _with_length(bytes([len(elements)]) + b"".join(elements))


def buffer(data: bytes) -> bytes:
    return b"\x11" + _with_length(integer(len(data)) + data)


def named(name: str, value: bytes) -> bytes:
    return b"\x08" + name_string(name) + value


def scope(name: str, *terms: bytes) -> bytes:
    return b"\x10" + _with_length(name_string(name) + b"".join(terms))


def device(name: str, *terms: bytes) -> bytes:
    return b"\x5b\x82" + _with_length(name_string(name) + b"".join(terms))


def resources(*descriptors: bytes) -> bytes:
    """A ResourceTemplate buffer."""
    return buffer(b"".join(descriptors) + END_TAG)


def memory32_fixed(base: int, size: int) -> bytes:
    return struct.pack("<BHBII", 0x86, 9, 1, base, size)


def io_port(base: int, size: int) -> bytes:
    return struct.pack("<BBHHBB", 0x47, 1, base, base, 1, size)


def edge_interrupt(gsi: int) -> bytes:
    """Extended interrupt: consumer, edge, active high, exclusive."""
    return struct.pack("<BHBBI", 0x89, 6, 0x03, 1, gsi)


def eisa_id(text: str) -> bytes:
    """A compressed EISA id such as PNP0501."""
    letters = [ord(letter) - 0x40 for letter in text[:3]]
    value = letters[0] << 26 | letters[1] << 21 | letters[2] << 16 | int(text[3:], 16)
    return b"\x0c" + value.to_bytes(4, "big")


def _with_length(body: bytes) -> bytes:
    """Prefix PkgLength, which counts itself (20.2.4)."""
    for extra in range(4):
        total = len(body) + 1 + extra
        if extra == 0 and total < 1 << 6:
            return bytes([total]) + body
        if extra > 0 and total < 1 << (4 + 8 * extra):
            return bytes([extra << 6 | total & 0xF]) + (total >> 4).to_bytes(extra, "little") + body
    raise ValueError(f"AML package of {len(body)} bytes is too long")
