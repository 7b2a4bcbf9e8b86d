"""Guest memory under KVM, its dirty log, the guest's clock, and errors that name what failed."""

from __future__ import annotations

import errno
import mmap
from pathlib import Path

import pytest

from tests.device.kvm_guest import DONE, MIB, TinyGuest, ebx, needs_kvm, repeat
from vmm_core._native import ffi, lib
from vmm_core.accel import probe
from vmm_core.accel.kvm.vm import KvmVm, explain
from vmm_core.config.records import CpuTopology
from vmm_core.errors import VmmError

FIRST_PAGE = 2 * MIB // 4096
HIGH = 0x4000_0000


def dirty_pages(bitmap: bytes) -> list[int]:
    return [8 * index + bit for index, byte in enumerate(bitmap) for bit in range(8) if byte >> bit & 1]


def writing_every_second_page(count: int) -> bytes:
    """movb $1, (%rbx); add $0x2000, %ebx"""
    return ebx(2 * MIB) + repeat(count, b"\xc6\x03\x01\x81\xc3\x00\x20\x00\x00") + DONE


@needs_kvm
def test_the_dirty_log_names_exactly_the_pages_the_guest_wrote() -> None:
    guest = TinyGuest(writing_every_second_page(100))
    guest.vm.track_dirty_pages(True)
    guest.run_to_end()
    [(gpa, bitmap)] = guest.vm.take_dirty_pages()
    assert (gpa, len(bitmap)) == (0, 4 * MIB // 4096 // 8)
    written = [page for page in dirty_pages(bitmap) if page >= FIRST_PAGE]
    assert written == [FIRST_PAGE + 2 * index for index in range(100)]
    guest.close()


@needs_kvm
def test_taking_the_dirty_log_starts_it_over() -> None:
    guest = TinyGuest(writing_every_second_page(10))
    guest.vm.track_dirty_pages(True)
    for _ in range(3):
        guest.start_at(0x6000)
        guest.run_to_end()
        pages = dirty_pages(guest.vm.take_dirty_pages()[0][1])
        assert pages[-10:] == [FIRST_PAGE + 2 * index for index in range(10)]
        assert dirty_pages(guest.vm.take_dirty_pages()[0][1]) == []
    guest.close()


@needs_kvm
def test_the_dirty_log_must_be_on_to_be_taken() -> None:
    guest = TinyGuest(DONE)
    with pytest.raises(VmmError, match="KVM_GET_DIRTY_LOG failed"):
        guest.vm.take_dirty_pages()
    guest.vm.track_dirty_pages(True)
    guest.vm.take_dirty_pages()
    guest.vm.track_dirty_pages(False)
    with pytest.raises(VmmError, match="KVM_GET_DIRTY_LOG failed"):
        guest.vm.take_dirty_pages()
    guest.close()


@needs_kvm
def test_overlapping_memory_is_refused_by_name() -> None:
    guest = TinyGuest(DONE)
    memory = mmap.mmap(-1, MIB)
    address = int(ffi.cast("uintptr_t", ffi.from_buffer(memory)))
    with pytest.raises(VmmError, match="KVM_SET_USER_MEMORY_REGION for 0x100000 bytes at 0x200000 failed: File exists"):
        guest.vm.add_ram(2 * MIB, MIB, address)
    guest.vm.add_ram(1 << 32, MIB, address)
    guest.close()


@needs_kvm
def test_memory_the_host_cannot_provide_ends_the_vcpu_with_a_reason(tmp_path: Path) -> None:
    """What a hugetlbfs pool that runs dry, or a truncated memory file, looks like."""
    if probe.choose("auto")[0] != "kvm":
        pytest.skip("this KVM emulates instructions, and takes memory that cannot be had for a device")
    guest = TinyGuest(ebx(HIGH) + b"\xc6\x03\x01" + DONE)
    with open(tmp_path / "memory", "wb+") as file:
        file.truncate(MIB)
        memory = mmap.mmap(file.fileno(), MIB)
        file.truncate(0)
    guest.vm.add_ram(HIGH, MIB, int(ffi.cast("uintptr_t", ffi.from_buffer(memory))))
    assert guest.run() == lib.SC_EXIT_FAILED
    assert "the host could not provide a page of guest memory" in guest.message()
    guest.close()


@needs_kvm
def test_the_guests_clock_runs_and_can_be_set() -> None:
    guest = TinyGuest(DONE)
    first = guest.vm.clock_ns()
    guest.run_to_end()
    assert guest.vm.clock_ns() > first
    guest.vm.set_clock_ns(3_600_000_000_000)
    assert 3_600_000_000_000 <= guest.vm.clock_ns() < 3_660_000_000_000
    guest.close()


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("nothing/kvm", "no KVM: .*/nothing/kvm does not exist on this host"),
        ("", "no KVM: cannot open .*: Is a directory"),
        ("file", "KVM: KVM_GET_API_VERSION failed: Inappropriate ioctl for device"),
    ],
)
def test_a_host_without_kvm_is_told_so(tmp_path: Path, device: str, message: str) -> None:
    (tmp_path / "file").touch()
    bus = lib.sc_bus_new()
    with pytest.raises(VmmError, match=message):
        KvmVm(bus, CpuTopology(), str(tmp_path / device))
    lib.sc_bus_free(bus)


@pytest.mark.parametrize(
    ("code", "step", "message"),
    [
        (errno.EACCES, "open", "no KVM: no permission to open /dev/kvm (add the user to the group `kvm`)"),
        (0, "KVM_CAP_IRQFD", "KVM on this host does not support KVM_CAP_IRQFD"),
        (errno.ENOMEM, "KVM_CREATE_VM", "KVM: KVM_CREATE_VM failed: Cannot allocate memory"),
    ],
)
def test_each_failure_says_what_to_look_at(code: int, step: str, message: str) -> None:
    failure = ffi.new("struct sc_kvm_error *", {"code": code, "step": step.encode()})
    assert explain(failure) == message


@needs_kvm
def test_more_cpus_with_one_id_are_refused_by_name() -> None:
    guest = TinyGuest(DONE)
    with pytest.raises(VmmError, match="vCPU 0: KVM: KVM_CREATE_VCPU failed: File exists"):
        guest.vm.create_vcpus(1)
    guest.close()
