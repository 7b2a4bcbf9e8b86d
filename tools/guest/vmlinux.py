"""Unpack the ELF vmlinux inside a bzImage (Linux Documentation/arch/x86/boot.rst: payload_offset, payload_length)."""

from __future__ import annotations

import gzip
import lzma
import struct
from pathlib import Path

import lz4.block

SETUP_SECTORS, PAYLOAD_OFFSET, PAYLOAD_LENGTH = 0x1F1, 0x248, 0x24C
LZ4_LEGACY = b"\x02\x21\x4c\x18"
LZ4_CHUNK = 8 << 20


def extract(image: Path) -> bytes:
    """The uncompressed kernel in `image`; ValueError for a compression that Debian's kernels do not use."""
    data = image.read_bytes()
    offset, length = struct.unpack_from("<II", data, PAYLOAD_OFFSET)
    start = ((data[SETUP_SECTORS] or 4) + 1) * 512 + offset
    payload = data[start : start + length]
    if payload.startswith(LZ4_LEGACY):
        return _lz4_legacy(payload)
    if payload.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMADecompressor().decompress(payload)
    if payload.startswith(b"\x1f\x8b"):
        return gzip.decompress(payload[:-4])
    raise ValueError(f"{image}: compressed in an unknown way ({payload[:6].hex()})")


def _lz4_legacy(payload: bytes) -> bytes:
    """Blocks of at most 8 MiB, each after its compressed size; the last 4 bytes are the size of the whole."""
    parts = []
    at, end = len(LZ4_LEGACY), len(payload) - 4
    while at < end:
        (size,) = struct.unpack_from("<I", payload, at)
        parts.append(lz4.block.decompress(payload[at + 4 : at + 4 + size], uncompressed_size=LZ4_CHUNK))
        at += 4 + size
    return b"".join(parts)
