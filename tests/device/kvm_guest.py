"""Tiny 64-bit guests, hand-assembled, that run on any /dev/kvm: even one that emulates every instruction."""

from __future__ import annotations

import mmap
import os
import struct
from typing import Any

import pytest

from vmm_core._native import ffi, lib
from vmm_core.accel.base import BootRegisters
from vmm_core.accel.kvm.vm import KvmVm
from vmm_core.config.records import CpuTopology

MIB = 1 << 20
GDT, PML4, PDPT, IDT, CODE, COUNTER, PAGE_DIRECTORIES, STACK = (
    0x500,
    0x1000,
    0x2000,
    0x4000,
    0x6000,
    0x9000,
    0x10000,
    0x80000,
)
VECTOR = 0x40
DONE_PORT = 0x10
HOLE = 0xD000_0000  # guest-physical addresses without RAM

needs_kvm = pytest.mark.skipif(
    not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no usable /dev/kvm on this machine"
)

# Machine code ------------------------------------------------------------------------------------------------------

HLT, STI, CLI, UD2, CPUID = b"\xf4", b"\xfb", b"\xfa", b"\x0f\x0b", b"\x0f\xa2"
SPIN = b"\xf3\x90\xeb\xfc"  # 1: pause; jmp 1b
DONE = b"\xe6" + bytes([DONE_PORT])  # out %al, $DONE_PORT
REP_OUTSB, REP_INSB = b"\xf3\x6e", b"\xf3\x6c"
OUT_DX = {1: b"\xee", 2: b"\x66\xef", 4: b"\xef"}
IN_DX = {1: b"\xec", 2: b"\x66\xed", 4: b"\xed"}
STORE = {1: b"\x88\x03", 2: b"\x66\x89\x03", 4: b"\x89\x03", 8: b"\x48\x89\x03"}  # mov rax, (%rbx)
LOAD = {1: b"\x8a\x03", 2: b"\x66\x8b\x03", 4: b"\x8b\x03", 8: b"\x48\x8b\x03"}  # mov (%rbx), rax
JUMP_TO_RBX = b"\xff\xe3"


def _imm32(opcode: int, value: int) -> bytes:
    return struct.pack("<BI", opcode, value)


def eax(value: int) -> bytes:
    return _imm32(0xB8, value)


def rax(value: int) -> bytes:
    return struct.pack("<HQ", 0xB848, value)


def ecx(value: int) -> bytes:
    return _imm32(0xB9, value)


def edx(value: int) -> bytes:
    return _imm32(0xBA, value)


def ebx(value: int) -> bytes:
    return _imm32(0xBB, value)


def esi(value: int) -> bytes:
    return _imm32(0xBE, value)


def edi(value: int) -> bytes:
    return _imm32(0xBF, value)


def poke(address: int, value: int) -> bytes:
    """movl $value, (address), through rbx"""
    return ebx(address) + b"\xc7\x03" + struct.pack("<I", value)


def repeat(count: int, body: bytes) -> bytes:
    """Run `body` (shorter than 120 bytes, leaving ecx alone) `count` times."""
    return ecx(count) + body + b"\xff\xc9\x75" + struct.pack("<b", -(len(body) + 4))


def wait_for_counter(count: int, *, halted: bool) -> bytes:
    """Until the word at COUNTER reaches `count`: asleep with interrupts on, or spinning."""
    idle = STI + HLT + CLI if halted else b"\xf3\x90"
    test = b"\x39\x0b\x72"  # cmp %ecx, (%rbx); jb
    return ebx(COUNTER) + ecx(count) + idle + test + struct.pack("<b", -(len(idle) + 4))


# push rax, rbx; incl COUNTER; end of interrupt; pop rbx, rax; iretq
INTERRUPT_HANDLER = b"\x50\x53" + ebx(COUNTER) + b"\xff\x03" + poke(0xFEE000B0, 0) + b"\x5b\x58\x48\xcf"
HANDLER = 0x7000


def route_line(gsi: int) -> bytes:
    """Mask the PICs, enable the LAPIC and let the IOAPIC deliver an edge on `gsi` as VECTOR."""
    mask = b"\xb0\xff\xe6\x21\xe6\xa1"  # mov $0xff, %al; out %al, $0x21; out %al, $0xa1
    select = poke(0xFEC00000, 0x10 + 2 * gsi)
    return mask + poke(0xFEE000F0, 0x1FF) + select + poke(0xFEC00010, VECTOR)


class TinyGuest:
    """A VM with `size` bytes of RAM at 0, an identity map of 4 GiB and `code` at CODE, which ends at DONE_PORT."""

    def __init__(self, code: bytes, *, cpus: CpuTopology | None = None, size: int = 4 * MIB) -> None:
        self.topology = cpus or CpuTopology()
        self.ram = mmap.mmap(-1, size)
        self.bus: Any = lib.sc_bus_new()
        self.cold(True, DONE_PORT, 1)
        self.vm = KvmVm(self.bus, self.topology)
        self.vm.add_ram(0, size, int(ffi.cast("uintptr_t", ffi.from_buffer(self.ram))))
        self.vm.create_vcpus(self.topology.cpus)
        self.exits = [ffi.new("struct sc_exit *") for _ in range(self.topology.cpus)]
        self._write_tables()
        self.write(CODE, code)
        self.write(HANDLER, INTERRUPT_HANDLER)
        self.start_at(CODE)

    def _write_tables(self) -> None:
        self.write(GDT, struct.pack("<4Q", 0, 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF))
        self.write(PML4, struct.pack("<Q", PDPT | 3))
        self.write(PDPT, struct.pack("<4Q", *(PAGE_DIRECTORIES + 0x1000 * index | 3 for index in range(4))))
        self.write(PAGE_DIRECTORIES, struct.pack("<2048Q", *(index << 21 | 0x83 for index in range(2048))))
        gate = struct.pack("<HHHHQ", HANDLER & 0xFFFF, 0x10, 0x8E00, HANDLER >> 16, 0)
        self.write(IDT + 16 * VECTOR, gate)

    def start_at(self, rip: int, *, idt_limit: int = 0xFFF) -> None:
        """Set the boot CPU's registers."""
        registers = BootRegisters(
            rip=rip, rsi=0x7000, rsp=STACK, cr3=PML4, gdt_base=GDT, gdt_limit=31, idt_base=IDT, idt_limit=idt_limit
        )
        self.vm.set_boot_registers(registers)

    def write(self, address: int, data: bytes) -> None:
        self.ram[address : address + len(data)] = data

    def word(self, address: int) -> int:
        return int.from_bytes(self.ram[address : address + 4], "little")

    def cold(self, pio: bool, base: int, length: int) -> None:
        assert lib.sc_bus_add_cold(self.bus, pio, base, length) == 0

    def run(self, index: int = 0) -> int:
        return self.vm.run_vcpu(index, self.exits[index])

    def access(self, index: int = 0) -> tuple[bool, bool, int, int, int]:
        """(is_pio, is_write, address, size, data) of the last cold exit."""
        access = self.exits[index].access
        return bool(access.is_pio), bool(access.is_write), int(access.address), int(access.size), int(access.data)

    def run_to_end(self) -> None:
        """Run vCPU 0 and expect nothing but its last word."""
        assert self.run() == lib.SC_EXIT_COLD, self.message()
        assert self.access()[2] == DONE_PORT

    def message(self, index: int = 0) -> str:
        text: bytes = ffi.string(self.exits[index].message)
        return text.decode()

    def close(self) -> None:
        self.vm.close()
        lib.sc_bus_free(self.bus)
