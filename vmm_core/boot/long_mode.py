"""What the 64-bit entry expects to be in force: flat segments and an identity map of the first GiB (facts 3.5)."""

from __future__ import annotations

import struct

from vmm_core.accel.base import BootRegisters
from vmm_core.boot import layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm_core.memory.guest_memory import GuestMemory

CODE_64, DATA_FLAT = 0x00AF9B000000FFFF, 0x00CF93000000FFFF
PRESENT_WRITABLE, LARGE_PAGE = 3, 0x80


def prepare(memory: GuestMemory, entry: int) -> BootRegisters:
    """Write GDT, IDT and page tables; returns the boot CPU's registers for an entry at guest-physical `entry`."""
    gdt = struct.pack("<4Q", 0, 0, CODE_64, DATA_FLAT)
    memory.write(layout.GDT, gdt)
    memory.write(layout.IDT, bytes(8))
    memory.write(layout.PML4, struct.pack("<Q", layout.PDPT | PRESENT_WRITABLE))
    memory.write(layout.PDPT, struct.pack("<Q", layout.PAGE_DIRECTORY | PRESENT_WRITABLE))
    flags = PRESENT_WRITABLE | LARGE_PAGE
    memory.write(layout.PAGE_DIRECTORY, struct.pack("<512Q", *(index << 21 | flags for index in range(512))))
    return BootRegisters(
        rip=entry,
        rsi=layout.ZERO_PAGE,
        rsp=layout.STACK_TOP,
        cr3=layout.PML4,
        gdt_base=layout.GDT,
        gdt_limit=len(gdt) - 1,
        idt_base=layout.IDT,
        idt_limit=7,
    )
