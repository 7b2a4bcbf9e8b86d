"""The software CPU's exits: Python answers an access exactly once, no kick is lost, a hostile guest hurts itself."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.device.tcg_machine import (
    CODE,
    COLD_MMIO,
    DATA,
    IDT,
    RESULT,
    TcgMachine,
    assemble,
    missing_compiler,
)
from tools.paths import ROOT
from vmm_core._native import lib
from vmm_core.accel.tcg.vm import TcgVm
from vmm_core.config.records import CpuTopology
from vmm_core.errors import VmmError

pytestmark = pytest.mark.skipif(missing_compiler is not None, reason=str(missing_compiler))

COUNT_FOREVER = "1: inc qword ptr [DATA]\n jmp 1b"


def test_a_cold_port_read_is_executed_once(tmp_path: Path) -> None:
    program = """
        mov ecx, 500
    1:  mov dx, RESULT
        in eax, dx
        add rbx, rax
        lock inc qword ptr [DATA]
        dec ecx
        jnz 1b
        mov [DATA + 8], rbx
        done"""
    with TcgMachine(assemble(program, tmp_path)) as machine:
        machine.answers[RESULT] = 7
        assert machine.run() == lib.SC_EXIT_COLD
        assert (machine.word(DATA), machine.word(DATA + 8)) == (500, 3500)


def test_a_read_modify_write_of_a_device_register_reads_once_and_writes_once(tmp_path: Path) -> None:
    program = """
        mov ebx, MMIO
        add dword ptr [rbx + 8], 5
        lock add dword ptr [rbx + 8], 6
        done"""
    with TcgMachine(assemble(program, tmp_path)) as machine:
        machine.answers[COLD_MMIO + 8] = 0x100
        machine.run()
        register = COLD_MMIO + 8
        assert machine.log[:-1] == [(register, 4, -1), (register, 4, 0x105), (register, 4, -1), (register, 4, 0x106)]


def test_a_string_input_crosses_to_python_for_each_word(tmp_path: Path) -> None:
    program = """
        mov edi, DATA
        mov ecx, 16
        mov dx, RESULT
        rep insd
        done"""
    with TcgMachine(assemble(program, tmp_path)) as machine:
        machine.answers[RESULT] = 0x11223344
        machine.run()
        assert machine.memory[DATA : DATA + 64] == bytes.fromhex("44332211") * 16


def test_a_kick_before_the_run_is_kept(tmp_path: Path) -> None:
    with TcgMachine(assemble("report\n done", tmp_path)) as machine:
        machine.vm.kick(0)
        assert machine.step() == lib.SC_EXIT_KICKED
        assert machine.run() == lib.SC_EXIT_COLD


def test_a_kick_while_an_access_waits_for_python_comes_after_the_access(tmp_path: Path) -> None:
    with TcgMachine(assemble("mov dx, RESULT\n in eax, dx\n" + COUNT_FOREVER, tmp_path)) as machine:
        assert machine.step() == lib.SC_EXIT_COLD
        machine.vm.kick(0)
        assert machine.step() == lib.SC_EXIT_KICKED


def test_every_kick_of_a_storm_stops_a_busy_guest(tmp_path: Path) -> None:
    def kick_when_it_counts(machine: TcgMachine) -> None:
        before = machine.word(DATA)
        while machine.word(DATA) == before:
            os.sched_yield()
        machine.vm.kick(0)

    with TcgMachine(assemble(COUNT_FOREVER, tmp_path)) as machine:
        for _ in range(300):
            kicker = threading.Thread(target=kick_when_it_counts, args=(machine,))
            kicker.start()
            assert machine.step() == lib.SC_EXIT_KICKED
            kicker.join()
        stopped_at = machine.word(DATA)
        assert stopped_at > 0
        assert machine.word(DATA) == stopped_at


@pytest.mark.parametrize("program", ["hlt", "cli\n hlt", "sti\n hlt"])
def test_a_halted_cpu_is_kicked_awake_and_goes_back_to_sleep(program: str, tmp_path: Path) -> None:
    with TcgMachine(assemble(program, tmp_path)) as machine:
        for _ in range(50):
            kicker = threading.Thread(target=machine.vm.kick, args=(0,))
            kicker.start()
            assert machine.step() == lib.SC_EXIT_KICKED
            kicker.join()


def test_a_cpu_that_waits_for_start_up_can_be_kicked(tmp_path: Path) -> None:
    with TcgMachine(assemble("hlt", tmp_path), cpus=2) as machine:
        machine.vm.kick(1)
        assert machine.step(1) == lib.SC_EXIT_KICKED


def test_an_idle_guest_costs_no_host_time(tmp_path: Path) -> None:
    """Sixteen timer wake-ups in 160 ms, and nothing in between."""
    program = """
        gate 0x40, tick
        apic 0xf0, 0x1ff
        apic 0x3e0, 0xb
        apic 0x320, 0x20040
        apic 0x380, 10000000
        sti
    1:  hlt
        cmp dword ptr [DATA], 16
        jb 1b
        done
    tick:
        inc dword ptr [DATA]
        eoi
        iretq"""
    with TcgMachine(assemble(program, tmp_path)) as machine:
        began = time.process_time()
        machine.run()
        assert time.process_time() - began < 0.08


def test_a_triple_fault_is_a_shutdown_and_stays_one(tmp_path: Path) -> None:
    with TcgMachine(assemble("lidt [empty]\n ud2\n empty: .quad 0, 0", tmp_path)) as machine:
        assert machine.run() == lib.SC_EXIT_SHUTDOWN
        assert machine.run() == lib.SC_EXIT_SHUTDOWN


HOSTILE = {
    "cr3 in a hole": "mov rax, 0xe0000000\n mov cr3, rax\n mov rax, [0x123456]",
    "cr3 beyond physical memory": "mov rax, 0xfffffffff000\n mov cr3, rax\n mov rax, [0x123456]",
    "paging off in 64-bit mode": "xor eax, eax\n mov cr0, rax",
    "stack in a hole": "mov rsp, 0xe0000000\n push rax\n pop rax\n report",
    "string copy between holes": "mov edi, 0xd0000000\n mov esi, 0xd0100000\n mov ecx, 100\n rep movsb",
    "fxsave to a device": "mov eax, MMIO\n fxsave [rax]\n fxrstor [rax]",
    "locked access to a hole": "mov ebx, 0xd0000000\n lock add qword ptr [rbx], 1\n lock xadd [rbx + 1], rax",
    "return to ring 3 without segments": "mov ax, 0x2b\n push rax\n push rax\n push 2\n push 0x33\n push 0\n iretq",
    "jump over the end of RAM": "mov rax, 0xffffff\n mov byte ptr [rax], 0x90\n jmp rax",
    "GDT of nonsense": "lgdt [0x100]\n mov ax, 0x10\n mov ds, ax\n mov ss, ax\n push 0x10\n push 0x10\n retfq",
    "interrupt without a task state segment": "lea eax, [user]\n mov byte ptr [0x8028 + 5], 0xfa\n"
    "mov dword ptr [0x8028], 0xffff\n mov dword ptr [0x8028 + 4], 0x00affa00\n xor ecx, ecx\n ltr cx\n user: ud2",
    "INIT to itself": "apic 0xf0, 0x1ff\n apic 0x300, 0x44500\n 1: jmp 1b",
}


@pytest.mark.parametrize("program", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_guest_ends_only_itself(program: str, tmp_path: Path) -> None:
    with TcgMachine(assemble(program + "\n done", tmp_path)) as machine:
        assert machine.run() in (lib.SC_EXIT_COLD, lib.SC_EXIT_SHUTDOWN, lib.SC_EXIT_RESET)


FAULTS = {
    "running into a device": (6, "mov eax, MMIO + 0x800\n jmp rax"),
    "running into a hole": (6, "mov eax, 0xd0000000\n jmp rax"),
    "jump to a non-canonical address": (13, "mov rax, 0x8000000000000000\n jmp rax"),
    "unknown machine specific register": (13, "mov ecx, 0x12345\n rdmsr"),
    "write to one": (13, "mov ecx, 0x12345\n wrmsr"),
    "x2APIC mode, which is not offered": (13, "mov ecx, 0x1b\n mov eax, 0xfee00c00\n xor edx, edx\n wrmsr"),
    "division by zero": (0, "xor ecx, ecx\n div ecx"),
    "syscall while it is off": (6, "syscall"),
}


@pytest.mark.parametrize(("vector", "program"), FAULTS.values(), ids=FAULTS.keys())
def test_what_faults_on_real_hardware_faults_here(vector: int, program: str, tmp_path: Path) -> None:
    text = f"gate {vector}, handler\n {program}\n done\n handler: mov eax, 0x66\n report\n done"
    with TcgMachine(assemble(text, tmp_path)) as machine:
        machine.answers = {COLD_MMIO + offset: 0xFF for offset in range(0x800, 0x810)}
        assert machine.run() == lib.SC_EXIT_COLD
        assert machine.results() == [0x66]


def test_a_page_fault_inside_an_atomic_access_that_needs_the_machine_alone_is_delivered(tmp_path: Path) -> None:
    """Misaligned over two pages of which the second is absent: the handler maps it, the addition happens once."""
    text = """
        gate 14, handler
        mov dword ptr [0x5000], 0x6083
        mov dword ptr [0x2008], 0x5003
        mov qword ptr [0x5000], 0x6003
        mov qword ptr [0x6000], DATA + 0x1003
        mov qword ptr [0x6008], 0
        mov rax, cr3
        mov cr3, rax
        mov ebx, 0x40000ffd
        lock add qword ptr [rbx], 1
        done
    handler:
        inc dword ptr [DATA]
        mov qword ptr [0x6008], DATA + 0x2003
        add rsp, 8
        iretq"""
    with TcgMachine(assemble(text, tmp_path), cpus=2) as machine:
        assert machine.run() == lib.SC_EXIT_COLD
        assert machine.word(DATA) == 1
        assert machine.word(DATA + 0x1FFD) == 1


def test_a_debug_register_stops_at_an_instruction(tmp_path: Path) -> None:
    text = """
        gate 1, handler
        mov eax, offset target
        mov dr0, rax
        mov ecx, 1
        mov dr7, rcx
        call rax
        mov eax, [DATA]
        report
        done
    target:
        ret
    handler:
        inc dword ptr [DATA]
        mov rax, dr6
        report
        xor eax, eax
        mov dr7, rax
        iretq"""
    with TcgMachine(assemble(text, tmp_path)) as machine:
        assert machine.run() == lib.SC_EXIT_COLD
        stop, count = machine.results()
        assert (stop & 0xF, count) == (1, 1)


PRIVILEGED_HEX = """
        0f22d8 0f22c0 0f22e0 0f0117 0f011f 0f30 0f32 cf 48cf f4 fb fa 0f05 0f07 0f34 480f07 cc cd80 f0480fc70f 0fae00
        0fae08 f3ab f3a4 ec ee 6e 6c ffe0 ffd0 0f00d8 0f00d0 0f01f8 9d 8ed8 8ed0 0fb220 cb f390 0f0138 0f23f8 0f23c0
        0f21c0 0f01d8 0f01da 0faa d9f2 0fc7f0 0f01d0 0f01d1 0fae20 0fae28"""
PRIVILEGED = [bytes.fromhex(text) for text in PRIVILEGED_HEX.split()]


def _random_program(source: random.Random) -> bytes:
    """Privileged instructions, loads of plausible addresses and plain noise."""
    code = bytearray()
    while len(code) < 2000:
        kind = source.random()
        if kind < 0.3:
            code += source.choice(PRIVILEGED)
        elif kind < 0.5:
            value = source.choice((0xFEE00000, 0xC0000080, 0x1000, 0)) + source.randrange(4096)
            code += bytes([0x48, 0xB8 + source.randrange(8)]) + value.to_bytes(8, "little")
        else:
            code += source.randbytes(source.randrange(1, 6))
    return bytes(code)


@pytest.mark.parametrize("seed", range(40))
def test_random_code_in_ring_zero_cannot_break_the_vmm(seed: int) -> None:
    source = random.Random(seed)
    with TcgMachine(_random_program(source), cpus=1 + seed % 2) as machine:
        for vector in range(32):
            handler = CODE + source.randrange(2000)
            stack, kind = source.randrange(4), source.choice((0x8E, 0x8F, 0xEE, 0x85))
            gate = struct.pack("<HHBBHII", handler & 0xFFFF, 0x10, stack, kind, handler >> 16, 0, 0)
            machine.memory[IDT + 16 * vector : IDT + 16 * vector + 16] = gate
        machine.stopping = True  # the first exit of any kind ends the run
        limit = threading.Timer(0.05, machine.vm.kick, (0,))
        limit.start()
        assert machine.run() in (lib.SC_EXIT_COLD, lib.SC_EXIT_KICKED, lib.SC_EXIT_SHUTDOWN, lib.SC_EXIT_RESET)
        limit.cancel()
        limit.join()


def test_too_many_cpus_are_refused_in_one_line() -> None:
    bus = lib.sc_bus_new()
    machine = TcgVm(bus, CpuTopology(cpus=33, max_cpus=33, cores=33))
    with pytest.raises(VmmError, match="at most 32 vCPUs are supported, not 33"):
        machine.create_vcpus(33)
    machine.close()
    lib.sc_bus_free(bus)


LEAK_CHECK = """
import pathlib, sys
from tests.device.tcg_machine import TcgMachine

program = pathlib.Path(sys.argv[1]).read_bytes()

def cycle(times):
    for _ in range(times):
        with TcgMachine(program, cpus=2) as machine:
            machine.run()

def resident():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096

cycle(30)
before = resident()
cycle(100)
print(resident() - before)
"""


def test_memory_use_does_not_grow_with_machines_come_and_gone(tmp_path: Path) -> None:
    """In a process of its own: what other tests leave behind must not count."""
    program = tmp_path / "program"
    program.write_bytes(assemble("done", tmp_path))
    command = [sys.executable, "-c", LEAK_CHECK, str(program)]
    grown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert int(grown) < 2 << 20
