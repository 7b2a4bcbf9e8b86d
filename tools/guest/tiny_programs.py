"""Programs of one page whose code differs throughout: where a page's old code runs, the exit status is wrong."""

from __future__ import annotations

import hashlib
import struct

COUNT = 200  # exit statuses 1..COUNT
BASE = 0x400000
HEADERS = 64 + 56
STEPS = 640
PAGE = 4096


def program(number: int) -> bytes:
    """A static x86-64 ELF that exits with `number` after STEPS instructions that no other program shares."""
    code = b"\x31\xff"  # xor edi, edi
    total = 0
    for step in range(STEPS):
        value = int.from_bytes(hashlib.sha256(f"{number}.{step}".encode()).digest()[:4], "little")
        total ^= value
        code += b"\x81\xf7" + struct.pack("<I", value)  # xor edi, value
    code += b"\x81\xf7" + struct.pack("<I", total ^ number)
    code += b"\xb8\x3c\0\0\0\x0f\x05"  # mov eax, SYS_exit; syscall
    image = _headers(HEADERS + len(code)) + code
    return image.ljust(PAGE, b"\xcc")


def _headers(size: int) -> bytes:
    entry = BASE + HEADERS
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    file_header = identity + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    read_execute, loadable = 5, 1
    return file_header + struct.pack("<IIQQQQQQ", loadable, read_execute, 0, BASE, BASE, size, size, PAGE)
