"""The lightweight machine on x86_64: RAM, virtio-mmio slots, one UART, soft power-off. No PCI, no firmware.

Specification: facts 3.1 to 3.5.
"""

from __future__ import annotations

from vmm_core.boot import acpi, kernel, long_mode, mptable, zero_page
from vmm_core.boot.layout import FOUR_GIB
from vmm_core.devices import acpi_pm, cmos, reset_port
from vmm_core.errors import VmmError
from vmm_core.memory.table import split_around_hole
from vmm_core.virtio.device import ID_BLOCK
from vmm_core.virtio.mmio import PAGE_LENGTH, MmioTransport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm_core.accel.base import AccelVm, BootRegisters
    from vmm_core.bus.dispatch import Bus
    from vmm_core.config.records import VmConfig
    from vmm_core.memory.guest_memory import GuestMemory
    from vmm_core.virtio.device import VirtioDevice

MEMORY_MAP = (  # base, size, what
    (0x0000_0000, 0xC000_0000, "RAM below 4 GiB"),
    (0xF010_0000, 0x1600, "virtio-mmio, 11 slots of 0x200"),
    (0xFEC0_0000, 0x10_0000, "IOAPIC"),
    (0xFEE0_0000, 0x10_0000, "local APIC"),
    (0xFEF0_C000, 0x4000, "identity map and TSS of the virtual CPU"),
    (0x1_0000_0000, 512 << 30, "RAM above 4 GiB"),
)
RAM_HOLE = (0xC000_0000, FOUR_GIB)
VIRTIO_BASE, FIRST_GSI, SLOT_COUNT = 0xF010_0000, 5, 11
DISK_SLOTS, NIC_SLOTS, OTHER_SLOTS = range(4), range(4, 6), range(6, 11)
CLOCK_SLOT = 3  # its interrupt, 8, is the CMOS clock's: where there is a clock, a driver of the clock has it
SERIAL_PORT, SERIAL_GSI = 0x3F8, 4
PM_PORT, SCI_GSI = 0x600, 16


class MachineEvents:
    """What the guest can ask of its machine; called on vCPU threads."""

    def __init__(self, power_off: Callable[[], None], reset: Callable[[], None]) -> None:
        self.power_off = power_off
        self.reset = reset


def ram_pieces(size: int) -> list[tuple[int, int, int]]:
    """Where `size` bytes of RAM lie: (gpa, size, offset in the backing file)."""
    return split_around_hole(size, *RAM_HOLE)


class Microvm:
    """Builds the machine around an accelerator's VM; `boot` loads the kernel and returns the boot CPU's registers."""

    def __init__(self, config: VmConfig, vm: AccelVm, bus: Bus, memory: GuestMemory, events: MachineEvents) -> None:
        self._config = config
        self._vm = vm
        self._bus = bus
        self._memory = memory
        self._free_slots = list(range(SLOT_COUNT))
        self._has_serial = False
        self.transports: list[MmioTransport] = []
        self.pm = acpi_pm.AcpiPm(events.power_off, self._set_sci)
        bus.add(pio=True, base=PM_PORT, length=acpi_pm.LENGTH, device=self.pm)
        bus.add(pio=True, base=reset_port.PORT, length=reset_port.LENGTH, device=reset_port.ResetPort(events.reset))
        self._has_clock = not vm.has_paravirtual_clock
        if self._has_clock:
            bus.add(pio=True, base=cmos.PORT, length=cmos.LENGTH, device=cmos.Cmos(vm.time_ns))

    def serial_place(self) -> tuple[int, int]:
        """Declare that there is a UART; returns its (port, gsi)."""
        self._has_serial = True
        return SERIAL_PORT, SERIAL_GSI

    def add_virtio(self, name: str, device: VirtioDevice) -> MmioTransport:
        """Plug a virtio device into the next slot of its kind; VmmError when all slots are taken."""
        slot = self._take_slot(device)
        base, gsi = VIRTIO_BASE + slot * PAGE_LENGTH, FIRST_GSI + slot
        transport = MmioTransport(name, device, base, gsi, self._bus, self._vm)
        self.transports.append(transport)
        return transport

    def boot(self, apic_ids: list[int], *, decompress: bool) -> BootRegisters:
        """Load kernel, initrd, command line and tables. The order keeps errors about files first."""
        boot = self._config.boot
        if boot.kernel is None:
            raise VmmError("kernel file is required for microvm machine type, which is not provided")
        image = kernel.load(boot.kernel, self._memory, decompress=decompress)
        initrd = zero_page.load_initrd(self._memory, boot.initrd, image.end) if boot.initrd else None
        zero_page.write_command_line(self._memory, self._command_line())
        mptable.write(self._memory, apic_ids)
        slots = [(transport.base, PAGE_LENGTH, transport.gsi) for transport in self.transports]
        com1 = (SERIAL_PORT, SERIAL_GSI) if self._has_serial else None
        places = acpi.Places(
            pm=(PM_PORT, SCI_GSI),
            reset=(reset_port.PORT, reset_port.PULSE_RESET),
            com1=com1,
            has_clock=self._has_clock and CLOCK_SLOT in self._free_slots,
        )
        rsdp = acpi.write(self._memory, apic_ids, slots, places)
        zero_page.write_zero_page(self._memory, image, initrd, rsdp)
        return long_mode.prepare(self._memory, image.entry)

    def _command_line(self) -> str:
        """The user's words first; then each device, for kernels with CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES.

        After the parameters come the words for init, behind `--`: the devices must stay in front of it.
        """
        words = self._config.boot.append.split()
        split = words.index("--") if "--" in words else len(words)
        devices = [
            f"virtio_mmio.device={PAGE_LENGTH}@{transport.base:#010x}:{transport.gsi}" for transport in self.transports
        ]
        return " ".join(words[:split] + devices + words[split:])

    def _take_slot(self, device: VirtioDevice) -> int:
        preferred = DISK_SLOTS if device.virtio_id == ID_BLOCK else NIC_SLOTS if device.virtio_id == 1 else OTHER_SLOTS
        order: list[int] = [*preferred, *reversed(self._free_slots)]
        if self._has_clock:
            order = [slot for slot in order if slot != CLOCK_SLOT] + [CLOCK_SLOT]
        for slot in order:
            if slot in self._free_slots:
                self._free_slots.remove(slot)
                return slot
        raise VmmError(f"the microvm has {SLOT_COUNT} places for virtio-mmio devices, and all are taken")

    def _set_sci(self, level: bool) -> None:
        self._vm.irqchip.set(self._vm.irqchip.opaque, SCI_GSI, level)

    def close(self) -> None:
        for transport in self.transports:
            transport.close()
