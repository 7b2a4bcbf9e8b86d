"""The Intel MultiProcessor table (specification 1.4), for kernels started with `acpi=off`."""

from __future__ import annotations

import struct

from vmm_core.boot import layout
from vmm_core.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm_core.memory.guest_memory import GuestMemory

LAPIC_ADDRESS, IOAPIC_ADDRESS = 0xFEE00000, 0xFEC00000
APIC_VERSION, IOAPIC_VERSION = 0x14, 0x11
PROCESSOR, BUS, IOAPIC, IO_INTERRUPT, LOCAL_INTERRUPT = range(5)
ENABLED, BOOT_PROCESSOR = 1, 2
INT, NMI, EXTINT = 0, 1, 3
CPU_FEATURES = 0x201  # FPU and APIC
CPU_SIGNATURE = 0x600
ISA_IRQS = 16
ALL_LAPICS = 0xFF


def build(apic_ids: list[int], address: int) -> bytes:
    """Return the floating pointer followed by the configuration table, to be placed at `address`."""
    ioapic_id = ioapic_id_for(apic_ids)
    entries = [_processor(apic_id, first=index == 0) for index, apic_id in enumerate(apic_ids)]
    entries.append(struct.pack("<BB6s", BUS, 0, b"ISA   "))
    entries.append(struct.pack("<BBBBI", IOAPIC, ioapic_id, IOAPIC_VERSION, ENABLED, IOAPIC_ADDRESS))
    entries += [struct.pack("<BBHBBBB", IO_INTERRUPT, INT, 0, 0, irq, ioapic_id, irq) for irq in range(ISA_IRQS)]
    entries.append(struct.pack("<BBHBBBB", LOCAL_INTERRUPT, EXTINT, 0, 0, 0, 0, 0))
    entries.append(struct.pack("<BBHBBBB", LOCAL_INTERRUPT, NMI, 0, 0, 0, ALL_LAPICS, 1))
    return _floating_pointer(address + 16) + _table(entries)


def write(memory: GuestMemory, apic_ids: list[int]) -> None:
    """Place the table at the start of the EBDA or, when that is too small for so many CPUs, in the BIOS area."""
    table = build(apic_ids, layout.EBDA)
    if len(table) <= layout.EBDA_END - layout.EBDA:
        memory.write(layout.EBDA, table)
        return
    place = layout.ACPI_AREA + 0x10000  # 0xF0000: the last place a kernel scans for the floating pointer
    if place + len(table) > layout.HIGH_RAM:
        raise VmmError(f"the MP table for {len(apic_ids)} CPUs does not fit below 1 MiB")
    memory.write(place, build(apic_ids, place))


def ioapic_id_for(apic_ids: list[int]) -> int:
    """The IOAPIC's id: the first after the CPUs', kept in the 8 bits that the table has."""
    return min(max(apic_ids) + 1, 0xFE)


def _processor(apic_id: int, *, first: bool) -> bytes:
    flags = ENABLED | (BOOT_PROCESSOR if first else 0)
    return struct.pack("<BBBBIIQ", PROCESSOR, apic_id, APIC_VERSION, flags, CPU_SIGNATURE, CPU_FEATURES, 0)


def _floating_pointer(table: int) -> bytes:
    fields = bytearray(struct.pack("<4sIBBB5s", b"_MP_", table, 1, 4, 0, bytes(5)))
    fields[10] = -sum(fields) & 0xFF
    return bytes(fields)


def _table(entries: list[bytes]) -> bytes:
    body = b"".join(entries)
    fields = bytearray(
        struct.pack(
            "<4sHBB8s12sIHHIHBB",
            b"PCMP",
            44 + len(body),
            4,
            0,
            b"STRATO  ",
            b"STRATOCELL  ",
            0,
            0,
            len(entries),
            LAPIC_ADDRESS,
            0,
            0,
            0,
        )
    )
    fields[7] = -(sum(fields) + sum(body)) & 0xFF
    return bytes(fields) + body
