"""Unpacking a bzImage's payload on the host: the formats that kernels use and that a maintained library reads."""

from __future__ import annotations

MAX_UNPACKED = 512 << 20
LZ4_LEGACY, GZIP, XZ = b"\x02\x21\x4c\x18", b"\x1f\x8b", b"\xfd7zXZ\x00"
LZ4_BLOCK = 8 << 20


def unpack(data: bytes) -> bytes | None:
    """Return the unpacked payload, or None when the format is unknown or the data is damaged (the guest then tries)."""
    if data[:4] == LZ4_LEGACY:
        return _lz4_legacy(data)
    if data[:2] == GZIP:
        return _gzip(data)
    if data[:6] == XZ:
        return _xz(data)
    return None


def _lz4_legacy(data: bytes) -> bytes | None:
    """The legacy frame: magic, then blocks of up to 8 MiB, each behind its 32-bit compressed size."""
    from lz4 import block

    pieces = []
    offset = 4
    while offset + 4 <= len(data):
        size = int.from_bytes(data[offset : offset + 4], "little")
        offset += 4
        if size == 0 or offset + size > len(data):
            break  # the unpacked size, which the kernel's build appends
        try:
            pieces.append(block.decompress(data[offset : offset + size], uncompressed_size=LZ4_BLOCK))
        except block.LZ4BlockError:
            return None
        offset += size
    return b"".join(pieces)


def _gzip(data: bytes) -> bytes | None:
    import zlib

    try:
        return zlib.decompressobj(wbits=31).decompress(data, MAX_UNPACKED)
    except zlib.error:
        return None


def _xz(data: bytes) -> bytes | None:
    import lzma

    try:
        return lzma.LZMADecompressor().decompress(data, MAX_UNPACKED)
    except lzma.LZMAError:
        return None
