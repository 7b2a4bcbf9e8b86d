"""ACPI tables of the microvm: CPUs, the IOAPIC, virtio-mmio devices (LNRO0005), COM1, soft power-off (ACPI 6.4).

Distribution kernels are built without `virtio_mmio.device=`; through ACPI they find the same devices.
"""

from __future__ import annotations

import struct

from vmm_core.boot import aml, layout
from vmm_core.boot.mptable import IOAPIC_ADDRESS, LAPIC_ADDRESS, ioapic_id_for
from vmm_core.config.record import Record
from vmm_core.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm_core.memory.guest_memory import GuestMemory

OEM_ID, OEM_TABLE_ID, CREATOR = b"STRATO", b"STRATOCL", b"STCL"
FADT_LENGTH, FADT_REVISION = 276, 6
SYSTEM_IO = 1
MADT_LOCAL_APIC, MADT_IO_APIC, MADT_LAPIC_NMI = 0, 1, 4
MADT_PCAT_COMPAT = 1
FLAG_WBINVD, FLAG_SLEEP_BUTTON_ABSENT, FLAG_RESET_SUPPORTED, FLAG_HEADLESS = 1, 1 << 5, 1 << 10, 1 << 12
BOOT_NO_VGA, BOOT_NO_MSI, BOOT_NO_CMOS_CLOCK = 1 << 2, 1 << 3, 1 << 5
SLEEP_TYPE_S5 = 5


class Places(Record):
    """Where the machine's fixed devices are: PM1 block (port, SCI gsi), reset (port, value), COM1 (port, gsi)."""

    pm: tuple[int, int]
    reset: tuple[int, int]
    com1: tuple[int, int] | None
    has_clock: bool


def write(memory: GuestMemory, apic_ids: list[int], virtio_slots: list[tuple[int, int, int]], places: Places) -> int:
    """Place all tables in the ACPI area and return the RSDP's address. `virtio_slots` are (base, size, gsi)."""
    area = _Area(layout.ACPI_AREA + 64)
    facs = area.place(struct.pack("<4sIIIII", b"FACS", 64, 0, 0, 0, 0).ljust(64, b"\0"))
    dsdt = area.place(table(b"DSDT", 2, dsdt_body(virtio_slots, places.com1)))
    fadt = area.place(table(b"FACP", FADT_REVISION, fadt_body(facs, dsdt, places)))
    madt = area.place(table(b"APIC", 4, madt_body(apic_ids)))
    xsdt = area.place(table(b"XSDT", 1, struct.pack("<QQ", fadt, madt)))
    memory.write(layout.ACPI_AREA, rsdp(xsdt).ljust(64, b"\0") + area.data())
    return layout.ACPI_AREA


def table(signature: bytes, revision: int, body: bytes) -> bytes:
    """A table with its standard header and checksum (5.2.6)."""
    header = struct.pack("<4sIBB6s8sI4sI", signature, 36 + len(body), revision, 0, OEM_ID, OEM_TABLE_ID, 1, CREATOR, 1)
    data = bytearray(header + body)
    data[9] = -sum(data) & 0xFF
    return bytes(data)


def rsdp(xsdt: int) -> bytes:
    """Root pointer, revision 2 (5.2.5.3): two checksums."""
    data = bytearray(struct.pack("<8sB6sBIIQB3x", b"RSD PTR ", 0, OEM_ID, 2, 0, 36, xsdt, 0))
    data[8] = -sum(data[:20]) & 0xFF
    data[32] = -sum(data) & 0xFF
    return bytes(data)


def dsdt_body(virtio_slots: list[tuple[int, int, int]], com1: tuple[int, int] | None) -> bytes:
    devices = [_virtio_device(index, *slot) for index, slot in enumerate(virtio_slots)]
    if com1 is not None:
        port, gsi = com1
        crs = aml.resources(aml.io_port(port, 8), aml.edge_interrupt(gsi))
        devices.append(
            aml.device(
                "COM1",
                aml.named("_HID", aml.eisa_id("PNP0501")),
                aml.named("_UID", aml.integer(0)),
                aml.named("_CRS", crs),
            )
        )
    s5 = aml.package(aml.integer(SLEEP_TYPE_S5), aml.integer(SLEEP_TYPE_S5), aml.integer(0), aml.integer(0))
    return aml.scope("\\_SB_", *devices) + aml.named("\\_S5_", s5)


def _virtio_device(index: int, base: int, size: int, gsi: int) -> bytes:
    return aml.device(
        f"VR{index:02X}",
        aml.named("_HID", aml.string("LNRO0005")),
        aml.named("_UID", aml.integer(index)),
        aml.named("_CCA", aml.integer(1)),
        aml.named("_CRS", aml.resources(aml.memory32_fixed(base, size), aml.edge_interrupt(gsi))),
    )


def fadt_body(facs: int, dsdt: int, places: Places) -> bytes:
    """Fixed description table (5.2.9), full (not reduced) hardware, so that Linux keeps its legacy timer and PIC."""
    port, sci = places.pm
    boot_flags = BOOT_NO_VGA | BOOT_NO_MSI | (0 if places.has_clock else BOOT_NO_CMOS_CLOCK)
    data = bytearray(FADT_LENGTH)
    struct.pack_into("<II", data, 36, facs, dsdt)
    struct.pack_into("<H", data, 46, sci)
    struct.pack_into("<I", data, 56, port)  # PM1a_EVT_BLK
    struct.pack_into("<I", data, 64, port + 4)  # PM1a_CNT_BLK
    data[88], data[89] = 4, 2  # their lengths
    struct.pack_into("<HH", data, 96, 0xFFFF, 0xFFFF)  # no C2, no C3
    data[108] = 0x32  # the CMOS century byte
    struct.pack_into("<H", data, 109, boot_flags)  # and no 8042
    struct.pack_into("<I", data, 112, FLAG_WBINVD | FLAG_SLEEP_BUTTON_ABSENT | FLAG_RESET_SUPPORTED | FLAG_HEADLESS)
    data[116:128] = _io_register(places.reset[0], 8)
    data[128] = places.reset[1]
    data[131] = 4  # minor version
    struct.pack_into("<QQ", data, 132, 0, dsdt)
    data[148:160] = _io_register(port, 32)
    data[172:184] = _io_register(port + 4, 16)
    return bytes(data[36:])


def madt_body(apic_ids: list[int]) -> bytes:
    """Interrupt controllers (5.2.12); ISA interrupts keep their numbers, so there are no overrides."""
    body = struct.pack("<II", LAPIC_ADDRESS, MADT_PCAT_COMPAT)
    for index, apic_id in enumerate(apic_ids):
        body += struct.pack("<BBBBI", MADT_LOCAL_APIC, 8, index, apic_id, 1)
    body += struct.pack("<BBBBII", MADT_IO_APIC, 12, ioapic_id_for(apic_ids), 0, IOAPIC_ADDRESS, 0)
    return body + struct.pack("<BBBHB", MADT_LAPIC_NMI, 6, 0xFF, 0, 1)


def _io_register(port: int, bits: int) -> bytes:
    """A generic address structure for an I/O port (5.2.3.2)."""
    return struct.pack("<BBBBQ", SYSTEM_IO, bits, 0, min(bits // 8, 3), port)


class _Area:
    """Tables one after another, each on a 64-byte boundary (FACS needs it)."""

    def __init__(self, base: int) -> None:
        self._base = base
        self._data = bytearray()

    def place(self, data: bytes) -> int:
        address = self._base + len(self._data)
        self._data += data + bytes(-len(data) % 64)
        if self._base + len(self._data) > layout.ACPI_AREA + 0x10000:
            raise VmmError("the ACPI tables exceed their 64 KiB")
        return address

    def data(self) -> bytes:
        return bytes(self._data)
