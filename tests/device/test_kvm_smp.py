"""More than one CPU: started by INIT and SIPI, numbered and placed as `-smp` says, up to 254 of them."""

from __future__ import annotations

import os
import struct
import threading

import pytest

from tests.deadlines import Deadline
from tests.device.kvm_guest import (
    COUNTER,
    CPUID,
    DONE,
    TinyGuest,
    eax,
    ebx,
    ecx,
    needs_kvm,
    poke,
    wait_for_counter,
)
from vmm_core._native import lib
from vmm_core.accel import topology
from vmm_core.accel.kvm.vm import KvmVm
from vmm_core.config.records import CpuTopology

pytestmark = needs_kvm
AP_CODE, AP_IDS = 0x8000, 0xA000
ICR = 0xFEE00300
INIT_OTHERS, SIPI_OTHERS = 0x000C4500, 0x000C4600 | AP_CODE >> 12
# Real mode: cpuid leaf 0xB; movb $1, AP_IDS(%edx); lock incl COUNTER; 1: hlt; jmp 1b
AP_PROGRAM = (
    b"\x66\xb8\x0b\x00\x00\x00\x66\x31\xc9\x0f\xa2\x67\xc6\x82" + struct.pack("<I", AP_IDS) + b"\x01"
    b"\xf0\x66\xff\x06" + struct.pack("<H", COUNTER) + b"\xf4\xeb\xfd"
)


def smp(cpus: int, **levels: int) -> CpuTopology:
    values = {"sockets": 1, "dies": 1, "clusters": 1, "cores": 1, "threads": 1, **levels}
    return CpuTopology(cpus=cpus, max_cpus=cpus, **values)


def start_others(count: int) -> bytes:
    return poke(ICR, INIT_OTHERS) + poke(ICR, SIPI_OTHERS) + wait_for_counter(count, halted=False) + DONE


@pytest.mark.parametrize(
    "cpus", [smp(2, cores=2), smp(4, cores=2, threads=2), smp(6, sockets=2, cores=3)], ids=["2", "2x2", "2x3"]
)
def test_the_boot_cpu_starts_all_others_and_each_knows_its_id(cpus: CpuTopology) -> None:
    guest = TinyGuest(start_others(cpus.cpus - 1), cpus=cpus)
    guest.write(AP_CODE, AP_PROGRAM)
    threads = [threading.Thread(target=guest.run, args=(index,)) for index in range(1, cpus.cpus)]
    for thread in threads:
        thread.start()
    guest.run_to_end()
    ids = {index for index in range(256) if guest.ram[AP_IDS + index]}
    deadline = Deadline(20)
    for index, thread in enumerate(threads, start=1):
        guest.vm.kick(index)
        thread.join(deadline.left())
        assert not thread.is_alive()
    assert ids == set(guest.vm.apic_ids()[1:])
    guest.close()


def cpuid(guest: TinyGuest, leaf: int, subleaf: int = 0) -> tuple[int, int, int, int]:
    """What CPU 0 sees."""
    store = b"".join(
        bytes([0x89, 0x04 | register << 3, 0x25]) + struct.pack("<I", 0x9000 + 4 * index)
        for index, register in enumerate((0, 3, 1, 2))
    )
    guest.write(0x6000, eax(leaf) + ecx(subleaf) + ebx(0) + CPUID + store + DONE)
    guest.start_at(0x6000)
    guest.run_to_end()
    eax_, ebx_, ecx_, edx_ = struct.unpack("<4I", guest.ram[0x9000:0x9010])
    return eax_, ebx_, ecx_, edx_


def test_cpuid_names_a_hypervisor_with_kvms_own_leaves() -> None:
    guest = TinyGuest(DONE)
    assert cpuid(guest, 1)[2] >> 31 == 1
    _eax, *signature = cpuid(guest, 0x40000000)
    assert struct.pack("<3I", *signature) == b"KVMKVMKVM\0\0\0"
    assert cpuid(guest, 0x40000001)[0] & 0x9  # one of the two kvm-clock interfaces
    guest.close()


def test_cpuid_shows_cores_and_threads() -> None:
    guest = TinyGuest(DONE, cpus=smp(12, sockets=2, cores=3, threads=2))
    features = cpuid(guest, 1)
    assert (features[1] >> 16 & 0xFF, features[1] >> 24, features[3] >> 28 & 1) == (8, 0, 1)
    assert cpuid(guest, 0)[0] >= 0xB
    assert [cpuid(guest, 0xB, level) for level in range(3)] == [(1, 2, 0x100, 0), (3, 6, 0x201, 0), (0, 0, 2, 0)]
    guest.close()


def test_cpuid_shows_clusters_and_dies() -> None:
    guest = TinyGuest(DONE, cpus=smp(24, sockets=1, dies=2, clusters=3, cores=2, threads=2))
    assert cpuid(guest, 0)[0] >= 0x1F
    levels = [cpuid(guest, 0x1F, level) for level in range(5)]
    assert levels == [(1, 2, 0x100, 0), (2, 4, 0x301 - 0x100, 0), (4, 12, 0x302, 0), (5, 24, 0x503, 0), (0, 0, 4, 0)]
    guest.close()


def test_a_single_cpu_is_not_called_multithreaded() -> None:
    guest = TinyGuest(DONE)
    assert cpuid(guest, 1)[1] >> 16 & 0xFF == 1
    assert cpuid(guest, 0xB)[:3] == (0, 1, 0x100)
    guest.close()


@pytest.mark.parametrize("cpus", [smp(254, sockets=254), smp(254, sockets=2, cores=127), smp(250, sockets=50, cores=5)])
def test_254_cpus_can_be_created(cpus: CpuTopology) -> None:
    bus = lib.sc_bus_new()
    vm = KvmVm(bus, cpus)
    vm.create_vcpus(cpus.cpus)
    ids = vm.apic_ids()
    assert len(set(ids)) == cpus.cpus
    assert max(ids) <= topology.LAST_ID
    vm.close()
    lib.sc_bus_free(bus)


def test_a_closed_vm_leaves_no_descriptor_and_no_mapping() -> None:
    def descriptors_and_mappings() -> tuple[int, int]:
        with open("/proc/self/maps") as maps:
            return len(os.listdir("/proc/self/fd")), sum("kvm" in line for line in maps)

    before = descriptors_and_mappings()
    for _ in range(5):
        guest = TinyGuest(DONE, cpus=smp(4, cores=4))
        guest.run_to_end()
        guest.close()
    assert descriptors_and_mappings() == before
