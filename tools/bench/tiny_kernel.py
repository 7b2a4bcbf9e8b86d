"""The smallest guests: their first instructions write one character to the serial port, then the CPU halts."""

from __future__ import annotations

import struct

# mov $0x3f8,%dx; mov $'!',%al; out %al,%dx; 1: hlt; jmp 1b
CODE = bytes.fromhex("66baf803b021eef4ebfd")  # the same bytes in 32-bit and 64-bit mode
CODE_16 = bytes.fromhex("baf803b021eef4ebfd")
MARK = b"!"
LOAD_ADDRESS = 0x100_0000
PVH_ENTRY_NOTE = 18  # XEN_ELFNOTE_PHYS32_ENTRY
PAGE = 4096
FIRMWARE_SIZE = 65536


def kernel() -> bytes:
    """An ELF that both protocols can enter: at its 64-bit entry, or by PVH in 32-bit mode (QEMU)."""
    note = struct.pack("<III", 4, 4, PVH_ENTRY_NOTE) + b"Xen\0" + struct.pack("<I", LOAD_ADDRESS)
    note_offset = 64 + 2 * 56
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = identity + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, LOAD_ADDRESS, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    loadable, note_type, read_execute, read = 1, 4, 5, 4
    load = _program(loadable, read_execute, PAGE, LOAD_ADDRESS, len(CODE))
    image = header + load + _program(note_type, read, note_offset, 0, len(note)) + note
    return image.ljust(PAGE, b"\0") + CODE


def firmware() -> bytes:
    """A ROM that does the same at the reset vector, in real mode: the first thing any guest of QEMU can do."""
    reset_vector = CODE_16.ljust(16, b"\xf4")
    return reset_vector.rjust(FIRMWARE_SIZE, b"\xf4")


def _program(kind: int, flags: int, offset: int, address: int, size: int) -> bytes:
    return struct.pack("<IIQQQQQQ", kind, flags, offset, address, address, size, size, 4)
