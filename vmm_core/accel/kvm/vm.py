"""The `kvm` accelerator: a thin shell around `vmm_core/native/kvm_*.c` (facts 3.1, 3.5; design section 3)."""

from __future__ import annotations

import errno
import os

from vmm_core._native import ffi, lib
from vmm_core.accel import topology as cpu_topology
from vmm_core.accel.base import AccelVm
from vmm_core.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm_core.accel.base import BootRegisters
    from vmm_core.config.records import CpuTopology

DEVICE = "/dev/kvm"
PAGE_SIZE = 4096


def explain(failure: Any, device: str = DEVICE) -> str:
    """Say what a filled `struct sc_kvm_error` means for the user, in one line."""
    step = ffi.string(failure.step).decode()
    if step == "open":
        return _explain_open(failure.code, device)
    if failure.code == 0:
        return f"KVM on this host does not support {step}"
    return f"KVM: {step} failed: {os.strerror(failure.code)}"


def _explain_open(code: int, device: str) -> str:
    if code in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
        return f"no KVM: {device} does not exist on this host (or its kernel module is not loaded)"
    if code in (errno.EACCES, errno.EPERM):
        return f"no KVM: no permission to open {device} (add the user to the group `kvm`)"
    return f"no KVM: cannot open {device}: {os.strerror(code)}"


def _check(result: int, what: str) -> int:
    if result < 0:
        raise VmmError(f"KVM: {what} failed: {os.strerror(-result)}")
    return result


class KvmVm(AccelVm):
    """One KVM virtual machine with the kernel's interrupt controllers (PIC, IOAPIC, LAPICs) and timer (PIT).

    `bus` is the `struct sc_bus *` that accesses are offered to; it must outlive this object, and RAM its mapping.
    """

    name = "kvm"
    has_paravirtual_clock = True

    def __init__(self, bus: Any, topology: CpuTopology, device: str = DEVICE) -> None:
        self._topology = topology
        self._vcpus: list[Any] = []
        self._slots: list[tuple[int, int]] = []  # gpa, size
        failure = ffi.new("struct sc_kvm_error *")
        handle = ffi.new("struct sc_kvm_vm **")
        if lib.sc_kvm_vm_new(os.fsencode(device), bus, handle, failure) < 0:
            raise VmmError(explain(failure, device))
        self._vm = handle[0]
        self.irqchip = lib.sc_kvm_irqchip(self._vm)

    def add_ram(self, gpa: int, size: int, host_address: int) -> None:
        result = lib.sc_kvm_add_ram(self._vm, gpa, size, host_address)
        _check(result, f"KVM_SET_USER_MEMORY_REGION for {size:#x} bytes at {gpa:#x}")
        self._slots.append((gpa, size))

    def apic_ids(self) -> list[int]:
        """The APIC ids of the created vCPUs, for the firmware tables."""
        return cpu_topology.apic_ids(self._topology, len(self._vcpus))

    def create_vcpus(self, count: int) -> None:
        levels = ffi.new("struct sc_kvm_topology *", cpu_topology.levels(self._topology))
        failure = ffi.new("struct sc_kvm_error *")
        handle = ffi.new("struct sc_kvm_vcpu **")
        for index, apic_id in enumerate(cpu_topology.apic_ids(self._topology, count)):
            if lib.sc_kvm_vcpu_new(self._vm, apic_id, levels, handle, failure) < 0:
                raise VmmError(f"vCPU {index}: {explain(failure)}")
            self._vcpus.append(handle[0])

    def set_boot_registers(self, registers: BootRegisters) -> None:
        failure = ffi.new("struct sc_kvm_error *")
        values = ffi.new("struct sc_kvm_boot_registers *", registers.as_dict())
        if lib.sc_kvm_boot_vcpu(self._vcpus[0], values, failure) < 0:
            raise VmmError(f"vCPU 0: {explain(failure)}")

    def run_vcpu(self, index: int, exit_record: Any) -> int:
        return int(lib.sc_kvm_run(self._vcpus[index], exit_record))

    def kick(self, index: int) -> None:
        lib.sc_kvm_kick(self._vcpus[index])

    def add_doorbell(self, address: int, size: int, match: int | None, fd: int) -> None:
        self._doorbell(True, address, size, match, fd)

    def remove_doorbell(self, address: int, size: int, match: int | None, fd: int) -> None:
        self._doorbell(False, address, size, match, fd)

    def _doorbell(self, add: bool, address: int, size: int, match: int | None, fd: int) -> None:
        result = lib.sc_kvm_doorbell(self._vm, add, address, size, match is None, match or 0, fd)
        _check(result, f"KVM_IOEVENTFD ({'add' if add else 'remove'} {address:#x}, value {match})")

    def add_irqfd(self, gsi: int, fd: int) -> None:
        _check(lib.sc_kvm_irqfd(self._vm, True, gsi, fd), f"KVM_IRQFD (add line {gsi})")

    def remove_irqfd(self, gsi: int, fd: int) -> None:
        _check(lib.sc_kvm_irqfd(self._vm, False, gsi, fd), f"KVM_IRQFD (remove line {gsi})")

    def track_dirty_pages(self, enabled: bool) -> None:
        """Start or stop recording which pages of guest memory vCPUs write. Writes of other processes are not seen."""
        _check(lib.sc_kvm_track_dirty(self._vm, enabled), "KVM_SET_USER_MEMORY_REGION (dirty log)")

    def take_dirty_pages(self) -> list[tuple[int, bytes]]:
        """Return (gpa, bitmap) of each RAM region, one bit per 4 KiB page, and start over."""
        return [(gpa, self._take_slot(slot, size)) for slot, (gpa, size) in enumerate(self._slots)]

    def _take_slot(self, slot: int, size: int) -> bytes:
        words = (size // PAGE_SIZE + 63) // 64
        bitmap = ffi.new("uint64_t[]", words)
        _check(lib.sc_kvm_take_dirty(self._vm, slot, bitmap), "KVM_GET_DIRTY_LOG")
        return bytes(ffi.buffer(bitmap))[: (size // PAGE_SIZE + 7) // 8]

    def clock_ns(self) -> int:
        """What the guest's kvm-clock shows, in nanoseconds since the VM's creation."""
        value = ffi.new("uint64_t *")
        _check(lib.sc_kvm_get_clock(self._vm, value), "KVM_GET_CLOCK")
        return int(value[0])

    def set_clock_ns(self, value: int) -> None:
        """Let the guest's kvm-clock go on from `value` nanoseconds."""
        _check(lib.sc_kvm_set_clock(self._vm, value), "KVM_SET_CLOCK")

    def instruction_pointer(self, index: int) -> int:
        """Where vCPU `index` stands; only while it is stopped."""
        value = ffi.new("uint64_t *")
        _check(lib.sc_kvm_instruction_pointer(self._vcpus[index], value), "KVM_GET_REGS")
        return int(value[0])

    def close(self) -> None:
        for vcpu in self._vcpus:
            lib.sc_kvm_vcpu_free(vcpu)
        self._vcpus = []
        lib.sc_kvm_vm_free(self._vm)
        self._vm = self.irqchip = ffi.NULL
