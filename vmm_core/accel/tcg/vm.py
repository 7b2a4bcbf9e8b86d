"""The `tcg` accelerator: a software CPU for hosts without usable hardware virtualization (design section 3).

The engine is Unicorn, which is GPL-2.0; so is the extension module `_tcg` around it, loaded for this accelerator alone.
"""

from __future__ import annotations

import os

from vmm_core._native import ffi as native_ffi
from vmm_core._native import lib as native_lib
from vmm_core.accel import topology as cpu_topology
from vmm_core.accel.base import AccelVm
from vmm_core.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm_core.accel.base import BootRegisters
    from vmm_core.config.records import CpuTopology

BUILD_COMMAND = "python -m vmm_core.accel.tcg.fetch"
CODE_BUFFER = 64 << 20  # bytes of translated code per vCPU at most; when full it is dropped and begun anew


def load() -> tuple[Any, Any]:
    """Return `ffi, lib` of the extension module; VmmError when it was not built."""
    try:
        from vmm_core.accel.tcg._tcg import ffi, lib
    except ImportError as error:
        raise VmmError(f"accelerator tcg: the software CPU is not built (run `{BUILD_COMMAND}`): {error}") from error
    return ffi, lib


def _check(result: int, what: str) -> int:
    if result < 0:
        raise VmmError(f"accelerator tcg: {what} failed: {os.strerror(-result)}")
    return result


class TcgVm(AccelVm):
    """One virtual machine of the software CPU, with 8259s, I/O APIC, local APICs and 8254 as KVM has them.

    `bus` is the `struct sc_bus *` that accesses are offered to; it must outlive this object, and RAM its mapping.
    """

    name = "tcg"
    needs_dirty_log = True

    def __init__(self, bus: Any, topology: CpuTopology, code_buffer: int = CODE_BUFFER) -> None:
        self._ffi, self._lib = load()
        self._bus = bus
        self._topology = topology
        self._count = 0
        bus_access = int(native_ffi.cast("uintptr_t", native_ffi.addressof(native_lib, "sc_bus_access")))
        self._vm = self._lib.sc_tcg_new(self._foreign("struct sc_bus *", bus), bus_access, code_buffer)
        if not self._vm:
            raise VmmError(f"accelerator tcg: creating a VM failed: {os.strerror(self._ffi.errno)}")
        irqchip = int(self._ffi.cast("uintptr_t", self._lib.sc_tcg_irqchip(self._vm)))
        self.irqchip = native_ffi.cast("struct sc_irqchip *", irqchip)

    def _foreign(self, kind: str, pointer: Any) -> Any:
        """The same pointer as one of `_tcg`'s own types."""
        return self._ffi.cast(kind, int(native_ffi.cast("uintptr_t", pointer)))

    def add_ram(self, gpa: int, size: int, host_address: int) -> None:
        result = self._lib.sc_tcg_add_ram(self._vm, gpa, size, host_address)
        _check(result, f"adding {size:#x} bytes of RAM at {gpa:#x}")

    def attach_dirty_log(self, address: int, size: int) -> None:
        _check(self._lib.sc_tcg_attach_dirty_log(self._vm, address, size), "attaching the dirty log")

    def apic_ids(self) -> list[int]:
        """The APIC ids of the created vCPUs, for the firmware tables."""
        return cpu_topology.apic_ids(self._topology, self._count)

    def create_vcpus(self, count: int) -> None:
        limit = int(self._lib.TCG_MAX_VCPUS)
        if count > limit:
            raise VmmError(f"accelerator tcg: at most {limit} vCPUs are supported, not {count}")
        threads, cores, clusters, dies = cpu_topology.levels(self._topology)
        levels = {"threads": threads, "cores": cores, "clusters": clusters, "dies": dies}
        ids = self._ffi.new("uint32_t[]", cpu_topology.apic_ids(self._topology, count))
        topology = self._ffi.new("struct sc_tcg_topology *", levels)
        _check(self._lib.sc_tcg_create_vcpus(self._vm, count, ids, topology), f"creating {count} vCPUs")
        self._count = count

    def set_boot_registers(self, registers: BootRegisters) -> None:
        boot = self._ffi.new("struct sc_tcg_boot *", registers.as_dict())
        self._lib.sc_tcg_set_boot_registers(self._vm, boot)

    def run_vcpu(self, index: int, exit_record: Any) -> int:
        return int(self._lib.sc_tcg_run(self._vm, index, self._foreign("struct sc_exit *", exit_record)))

    def kick(self, index: int) -> None:
        self._lib.sc_tcg_kick(self._vm, index)

    def add_doorbell(self, address: int, size: int, match: int | None, fd: int) -> None:
        result = native_lib.sc_bus_add_doorbell(self._bus, False, address, size, match is None, match or 0, fd)
        _check(result, f"adding the doorbell at {address:#x}")

    def remove_doorbell(self, address: int, size: int, match: int | None, fd: int) -> None:
        result = native_lib.sc_bus_remove_doorbell(self._bus, False, address, match is None, match or 0)
        _check(result, f"removing the doorbell at {address:#x}")

    def add_irqfd(self, gsi: int, fd: int) -> None:
        _check(self._lib.sc_tcg_add_irqfd(self._vm, gsi, fd), f"adding an irqfd for line {gsi}")

    def remove_irqfd(self, gsi: int, fd: int) -> None:
        _check(self._lib.sc_tcg_remove_irqfd(self._vm, gsi, fd), f"removing the irqfd of line {gsi}")

    def close(self) -> None:
        if self._vm:
            self._lib.sc_tcg_free(self._vm)
        self._vm = self._ffi.NULL
        self.irqchip = native_ffi.NULL
