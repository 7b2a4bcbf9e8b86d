"""What every accelerator offers: one class, one small set of operations."""

from __future__ import annotations

import time

from vmm_core.config.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class BootRegisters(Record):
    """State of the boot CPU at the 64-bit entry point (facts 3.5); every address is guest-physical.

    CS is selector 0x10, 64-bit code; DS, ES, FS, GS and SS are selector 0x18, flat data; TR is selector 0x20.
    """

    rip: int
    rsi: int
    rsp: int
    cr3: int
    gdt_base: int
    gdt_limit: int
    idt_base: int
    idt_limit: int


class AccelVm:
    """A virtual machine of one accelerator: RAM, interrupt lines, vCPUs. Errors are VmmError or OSError.

    Order of calls: construct, `add_ram`..., `create_vcpus`, `set_boot_registers`, then run; doorbells and irqfds may
    come and go at any time from any thread.
    """

    name: str = ""
    has_paravirtual_clock: bool = False  # the guest gets the time without a clock chip
    needs_dirty_log: bool = False  # backends must log their writes to guest memory (`attach_dirty_log`)
    irqchip: Any  # cffi `struct sc_irqchip *`, valid while the VM is open

    def add_ram(self, gpa: int, size: int, host_address: int) -> None:
        """Make `size` bytes at host address `host_address` appear at guest-physical `gpa`."""
        raise NotImplementedError

    def attach_dirty_log(self, address: int, size: int) -> None:
        """Watch the vhost dirty bitmap (1 bit per 4 KiB page of guest-physical space) mapped at `address`."""
        raise NotImplementedError

    def create_vcpus(self, count: int) -> None:
        raise NotImplementedError

    def apic_ids(self) -> list[int]:
        """The APIC ids of the created vCPUs, for MP table and MADT."""
        raise NotImplementedError

    def set_boot_registers(self, registers: BootRegisters) -> None:
        """Prepare vCPU 0; the others wait for INIT/SIPI."""
        raise NotImplementedError

    def run_vcpu(self, index: int, exit_record: Any) -> int:
        """Run vCPU `index` on the calling thread, GIL released, until something needs Python.

        `exit_record` is a cffi `struct sc_exit *`; returns its reason. A cold read is completed by setting
        `exit_record.access.data` before the next call.
        """
        raise NotImplementedError

    def kick(self, index: int) -> None:
        """Make the present or next `run_vcpu(index)` return SC_EXIT_KICKED. Never lost, from any thread."""
        raise NotImplementedError

    def add_doorbell(self, address: int, size: int, match: int | None, fd: int) -> None:
        """MMIO writes of `size` bytes (and of value `match`, if given) signal eventfd `fd`."""
        raise NotImplementedError

    def remove_doorbell(self, address: int, size: int, match: int | None, fd: int) -> None:
        raise NotImplementedError

    def add_irqfd(self, gsi: int, fd: int) -> None:
        """Each signal of eventfd `fd` raises an edge on interrupt line `gsi`."""
        raise NotImplementedError

    def remove_irqfd(self, gsi: int, fd: int) -> None:
        raise NotImplementedError

    def time_ns(self) -> int:
        """The wall clock that emulated clocks show, in nanoseconds since 1970, UTC."""
        return time.time_ns()

    def close(self) -> None:
        """Release everything; all vCPU threads must have left `run_vcpu`."""
        raise NotImplementedError
