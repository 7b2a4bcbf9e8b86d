"""The `test` accelerator: no CPU runs; a test moves registers, memory and the clock by hand through a socket."""

from __future__ import annotations

import os
from _thread import allocate_lock

from vmm_core._native import ffi, lib
from vmm_core.accel.base import AccelVm
from vmm_core.bus.dispatch import check
from vmm_core.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from vmm_core.accel.base import BootRegisters
    from vmm_core.loop import EventLoop


class TestVm(AccelVm):
    """vCPUs that sleep until kicked; doorbells through the bus; interrupt lines that are reported, not delivered."""

    __test__ = False  # not a test class, whatever pytest thinks of its name
    name = "test"

    def __init__(self, bus: Any, loop: EventLoop) -> None:
        self._bus = bus
        self._loop = loop
        self._kicks: list[Any] = []
        self.clock = 0  # nanoseconds; only the test moves it
        self.levels: dict[int, int] = {}
        self.on_interrupt: Callable[[int, int], None] = lambda gsi, level: None
        self._set_callback = ffi.callback(
            "void(void *, uint32_t, int)", lambda _opaque, gsi, level: self._set(gsi, level)
        )
        self.irqchip = ffi.new("struct sc_irqchip *", {"set": self._set_callback, "opaque": ffi.NULL})

    def add_ram(self, gpa: int, size: int, host_address: int) -> None:
        """Memory is reached through the core's own mapping."""

    def create_vcpus(self, count: int) -> None:
        self._kicks = [allocate_lock() for _ in range(count)]
        for kick in self._kicks:
            kick.acquire()

    def apic_ids(self) -> list[int]:
        return list(range(len(self._kicks)))

    def set_boot_registers(self, registers: BootRegisters) -> None:
        """No CPU, no registers."""

    def run_vcpu(self, index: int, exit_record: Any) -> int:
        self._kicks[index].acquire()
        return int(lib.SC_EXIT_KICKED)

    def kick(self, index: int) -> None:
        try:
            self._kicks[index].release()
        except RuntimeError:
            pass  # kicked already: kicks do not add up

    def add_doorbell(self, address: int, size: int, match: int | None, fd: int) -> None:
        check(
            lib.sc_bus_add_doorbell(self._bus, False, address, size, match is None, match or 0, fd),
            f"doorbell {address:#x}",
        )

    def remove_doorbell(self, address: int, size: int, match: int | None, fd: int) -> None:
        check(
            lib.sc_bus_remove_doorbell(self._bus, False, address, match is None, match or 0), f"doorbell {address:#x}"
        )

    def add_irqfd(self, gsi: int, fd: int) -> None:
        self._loop.add(fd, READ, lambda _events: self._pulse(gsi, fd))

    def remove_irqfd(self, gsi: int, fd: int) -> None:
        self._loop.remove(fd)

    def time_ns(self) -> int:
        return self.clock

    def close(self) -> None:
        """Nothing is held."""

    def _pulse(self, gsi: int, fd: int) -> None:
        os.eventfd_read(fd)
        self._set(gsi, 1)
        self._set(gsi, 0)

    def _set(self, gsi: int, level: int) -> None:
        if self.levels.get(gsi, 0) != level:
            self.levels[gsi] = level
            self.on_interrupt(gsi, level)
