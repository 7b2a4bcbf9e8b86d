"""Linux' zero page (struct boot_params), the command line, the initrd and the e820 map (facts 3.5)."""

from __future__ import annotations

import os
import struct

from vmm_core.boot import layout
from vmm_core.boot.kernel import BOOT_FLAG, HEADER_MAGIC, LOADER_UNDEFINED, SETUP_HEADER, LoadedKernel, read_into
from vmm_core.errors import VmmError
from vmm_core.memory.table import PAGE_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm_core.memory.guest_memory import GuestMemory

E820_RAM, E820_RESERVED = 1, 2
E820_COUNT, E820_TABLE = 0x1E8, 0x2D0
ACPI_RSDP_ADDRESS = 0x70
CAN_USE_HEAP = 0x80


def write_command_line(memory: GuestMemory, text: str) -> None:
    """Put the kernel command line at its place; VmmError when it does not fit."""
    data = text.encode() + b"\0"
    if len(data) > layout.COMMAND_LINE_ROOM:
        raise VmmError(f"-append: {len(data) - 1} bytes of kernel command line, {layout.COMMAND_LINE_ROOM - 1} allowed")
    memory.write(layout.COMMAND_LINE, data)


def load_initrd(memory: GuestMemory, path: str, kernel_end: int) -> tuple[int, int]:
    """Load the initrd as high as the kernel can reach it; returns (address, size in bytes)."""
    try:
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            top = min(layout.INITRD_LIMIT, memory.end_of_low_ram())
            address = (top - size) & ~(PAGE_SIZE - 1)
            if size == 0 or address < kernel_end:
                raise VmmError(
                    f"initrd {path}: {size} bytes do not fit between the kernel's end at {kernel_end:#x} and {top:#x}"
                )
            read_into(file.fileno(), 0, size, address, memory, f"initrd {path}")
    except OSError as error:
        raise VmmError(f"initrd {path}: {error.strerror}") from error
    return address, size


def e820_map(memory: GuestMemory) -> list[tuple[int, int, int]]:
    """Return (base, size, type) entries: RAM around the EBDA and the ACPI area, then whatever is above 1 MiB."""
    entries = [
        (0, layout.EBDA, E820_RAM),
        (layout.EBDA, layout.EBDA_END - layout.EBDA, E820_RESERVED),
        (layout.RESERVED_START, layout.HIGH_RAM - layout.RESERVED_START, E820_RESERVED),
    ]
    for region in memory.regions:
        start = max(region.gpa, layout.HIGH_RAM)
        entries.append((start, region.end - start, E820_RAM))
    return entries


def write_zero_page(memory: GuestMemory, kernel: LoadedKernel, initrd: tuple[int, int] | None, rsdp: int) -> None:
    """Fill in boot_params for `kernel`; `initrd` is (address, size), `rsdp` the ACPI root pointer's address."""
    page = bytearray(PAGE_SIZE)
    page[SETUP_HEADER : SETUP_HEADER + len(kernel.setup_header)] = kernel.setup_header
    struct.pack_into("<H", page, 0x1FE, BOOT_FLAG)
    page[0x202:0x206] = HEADER_MAGIC
    page[0x210] = LOADER_UNDEFINED
    page[0x211] |= CAN_USE_HEAP
    struct.pack_into("<I", page, 0x228, layout.COMMAND_LINE)
    if not kernel.setup_header:
        struct.pack_into("<I", page, 0x230, layout.RAW_KERNEL)  # kernel_alignment
        struct.pack_into("<I", page, 0x238, layout.COMMAND_LINE_ROOM - 1)
    if initrd is not None:
        struct.pack_into("<II", page, 0x218, *initrd)
    struct.pack_into("<Q", page, ACPI_RSDP_ADDRESS, rsdp)
    entries = e820_map(memory)
    page[E820_COUNT] = len(entries)
    for index, entry in enumerate(entries):
        struct.pack_into("<QQI", page, E820_TABLE + 20 * index, *entry)
    memory.write(layout.ZERO_PAGE, page)
