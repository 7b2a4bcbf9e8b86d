"""Timers of the software CPU: local APIC, TSC deadline, 8254."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.device.tcg_machine import DATA, TcgMachine, assemble, missing_compiler
from vmm_core._native import lib

pytestmark = pytest.mark.skipif(missing_compiler is not None, reason=str(missing_compiler))

WAIT = """
1:  sti
    hlt
    cli
    cmp dword ptr [DATA], {count}
    jb 1b
    done
"""
COUNT = """
handler:
    inc dword ptr [DATA]
    eoi
    iretq
"""
LAPIC_ON = "apic 0xf0, 0x1ff\n mov al, 0xff\n out 0x21, al\n"  # and the 8259 off


@pytest.mark.parametrize(
    ("mode", "arm"),
    [
        ("periodic", "apic 0x3e0, 0xb\n apic 0x320, 0x20040\n apic 0x380, 1000000"),
        ("divided by 16", "apic 0x3e0, 0x3\n apic 0x320, 0x20040\n apic 0x380, 62500"),
    ],
)
def test_the_apic_timer_ticks_at_the_promised_rate(mode: str, arm: str, tmp_path: Path) -> None:
    """Twenty periods of 1 ms by the timer take 19 ms or more of the guest's own clock: `rdtsc` counts nanoseconds."""
    text = f"""
        gate 0x40, handler
        {LAPIC_ON} {arm}
        rdtscp
        mov r8d, eax
        sti
    1:  hlt
        cmp dword ptr [DATA], 20
        jb 1b
        rdtscp
        sub eax, r8d
        report
        done
        {COUNT}"""
    with TcgMachine(assemble(text, tmp_path)) as machine:
        machine.run()
        assert 19_000_000 <= machine.results()[0] < 1_000_000_000


def test_a_one_shot_timer_fires_once(tmp_path: Path) -> None:
    text = f"""
        gate 0x40, handler
        gate 0x41, second
        {LAPIC_ON}
        apic 0x3e0, 0xb
        apic 0x320, 0x00040
        apic 0x380, 100000
        sti
        hlt
        cli
        apic 0x320, 0x00041
        apic 0x380, 3000000
        sti
        hlt
        mov eax, [DATA]
        report
        done
        {COUNT}
    second:
        eoi
        iretq"""
    with TcgMachine(assemble(text, tmp_path)) as machine:
        machine.run()
        assert machine.results() == [1]


def test_the_tsc_deadline_timer_fires_at_its_time(tmp_path: Path) -> None:
    text = f"""
        gate 0x40, handler
        {LAPIC_ON}
        apic 0x320, 0x40040
        mov ebx, 10
    2:  rdtsc
        shl rdx, 32
        or rax, rdx
        add rax, 500000
        mov r9, rax
        mov rdx, rax
        shr rdx, 32
        mov ecx, 0x6e0
        wrmsr
        sti
        hlt
        cli
        rdtsc
        shl rdx, 32
        or rax, rdx
        cmp rax, r9
        jb early
        dec ebx
        jnz 2b
        mov eax, [DATA]
        report
        done
    early:
        mov eax, 0xbad
        report
        done
        {COUNT}"""
    with TcgMachine(assemble(text, tmp_path)) as machine:
        machine.run()
        assert machine.results() == [10]


def test_a_timer_interrupts_a_loop_that_never_halts(tmp_path: Path) -> None:
    """The counter and the loop's own sum agree: no instruction runs twice when an interrupt cuts in."""
    text = f"""
        gate 0x40, handler
        {LAPIC_ON}
        apic 0x3e0, 0xb
        apic 0x320, 0x20040
        apic 0x380, 50000
        sti
    1:  add qword ptr [DATA + 8], 3
        push rax
        add qword ptr [rsp], 0
        pop rax
        inc rbx
        cmp dword ptr [DATA], 400
        jb 1b
        cli
        lea rbx, [rbx + rbx * 2]
        mov [DATA + 16], rbx
        done
        {COUNT}"""
    with TcgMachine(assemble(text, tmp_path)) as machine:
        machine.run()
        assert machine.word(DATA + 8) == machine.word(DATA + 16) > 0


PIC_ON = """
    mov al, 0x11
    out 0x20, al
    mov al, 0x20
    out 0x21, al
    mov al, 4
    out 0x21, al
    mov al, 1
    out 0x21, al
    mov al, 0xfe
    out 0x21, al
"""


@pytest.mark.parametrize(("mode", "count"), [(0x34, 10), (0x36, 10)])
def test_the_8254_ticks_through_the_8259(mode: int, count: int, tmp_path: Path) -> None:
    text = f"""
        gate 0x20, tick
        {PIC_ON}
        mov al, {mode}
        out 0x43, al
        mov al, 0xa9
        out 0x40, al
        mov al, 0x04
        out 0x40, al
        {WAIT.format(count=count)}
    tick:
        inc dword ptr [DATA]
        push rax
        mov al, 0x20
        out 0x20, al
        pop rax
        iretq"""
    with TcgMachine(assemble(text, tmp_path)) as machine:
        assert machine.run() == lib.SC_EXIT_COLD
        assert machine.word(DATA) == count


def test_channel_2_of_the_8254_runs_only_while_its_gate_is_open(tmp_path: Path) -> None:
    """What kernels calibrate with: gate in port 0x61 bit 0, output in bit 5."""
    text = """
        mov al, 0
        out 0x61, al
        mov al, 0xb0
        out 0x43, al
        mov al, 0x9b
        out 0x42, al
        mov al, 0x2e
        out 0x42, al
        mov ecx, 300000
    1:  dec ecx
        jnz 1b
        in al, 0x61
        and eax, 0x20
        report
        mov al, 1
        out 0x61, al
        rdtscp
        mov r8d, eax
    2:  in al, 0x61
        test al, 0x20
        jz 2b
        rdtscp
        sub eax, r8d
        report
        done"""
    with TcgMachine(assemble(text, tmp_path)) as machine:
        machine.run()
        closed, nanoseconds = machine.results()
        assert closed == 0
        assert 9_900_000 <= nanoseconds < 500_000_000  # 0x2e9b ticks of 1.193182 MHz are 10 ms


def test_the_shortest_of_periodic_timers_leaves_the_host_and_the_guest_alive(tmp_path: Path) -> None:
    text = f"""
        gate 0x40, handler
        {LAPIC_ON}
        apic 0x3e0, 0xb
        apic 0x320, 0x20040
        apic 0x380, 1
        rdtscp
        mov r8d, eax
        {WAIT.format(count=50)}
        {COUNT}"""
    text = text.replace("done", "rdtscp\n sub eax, r8d\n report\n done", 1)
    with TcgMachine(assemble(text, tmp_path)) as machine:
        machine.run()
        assert machine.results()[0] >= 4_000_000  # 100 us each
