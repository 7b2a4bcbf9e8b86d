"""Interrupts of the software CPU: lines, irqfds, inter-processor interrupts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.device.tcg_machine import DATA, TcgMachine, assemble, missing_compiler
from vmm_core._native import lib

pytestmark = pytest.mark.skipif(missing_compiler is not None, reason=str(missing_compiler))

COUNT = """
handler:
    inc dword ptr [DATA]
    eoi
    iretq
"""
LAPIC_ON = "apic 0xf0, 0x1ff\n mov al, 0xff\n out 0x21, al\n"  # and the 8259 off


def test_each_signal_of_an_irqfd_reaches_the_guest(tmp_path: Path) -> None:
    text = f"""
        gate 0x45, handler
        {LAPIC_ON}
        ioapic 0x1a, 0x45
        ioapic 0x1b, 0
        done
    1:  sti
        hlt
        cli
        done
        jmp 1b
        {COUNT}"""
    with TcgMachine(assemble(text, tmp_path)) as machine:
        fd = os.eventfd(0, os.EFD_CLOEXEC)
        machine.vm.add_irqfd(5, fd)
        machine.run()
        for expected in range(1, 21):
            os.eventfd_write(fd, 1)
            machine.run()
            assert machine.word(DATA) == expected
        machine.vm.remove_irqfd(5, fd)
        os.close(fd)


def test_a_level_interrupt_comes_back_until_its_device_is_satisfied(tmp_path: Path) -> None:
    """The handler's EOI finds the line still high twice; the third time the device (the test) has let go."""
    text = f"""
        gate 0x45, handler
        {LAPIC_ON}
        ioapic 0x1a, 0x8045
        ioapic 0x1b, 0
        done
        sti
    1:  hlt
        jmp 1b
    handler:
        inc dword ptr [DATA]
        done
        eoi
        iretq"""
    with TcgMachine(assemble(text, tmp_path)) as machine:
        machine.run()
        chip = machine.vm.irqchip
        chip.set(chip.opaque, 5, 1)
        for expected in (1, 2, 3):
            machine.run()
            assert machine.word(DATA) == expected
        chip.set(chip.opaque, 5, 0)
        machine.vm.kick(0)
        assert machine.run() == lib.SC_EXIT_KICKED
        chip.set(chip.opaque, 5, 1)
        machine.run()
        assert machine.word(DATA) == 4


def test_a_masked_line_waits_for_nobody_and_an_unmasked_level_line_fires_at_once(tmp_path: Path) -> None:
    text = f"""
        gate 0x45, handler
        {LAPIC_ON}
        ioapic 0x1b, 0
        ioapic 0x1a, 0x18045
        sti
        done
        ioapic 0x1a, 0x8045
    1:  hlt
        jmp 1b
    handler:
        mov eax, 0x45
        report
        done
        iretq"""
    with TcgMachine(assemble(text, tmp_path)) as machine:
        machine.run()
        chip = machine.vm.irqchip
        chip.set(chip.opaque, 5, 1)
        machine.run()
        assert machine.results() == [0x45]


# Real mode at 0x8000, put there by the boot CPU: protected mode is not needed to count.
AP_START = """
    mov edi, 0x8000
    lea esi, [trampoline]
    mov ecx, trampoline_end - trampoline
    rep movsb
    apic 0xf0, 0x1ff
    apic 0x310, 0x01000000
    apic 0x300, 0x00004500
    apic 0x300, 0x00004608
    apic 0x300, 0x00004608
"""
TRAMPOLINE = """
.code16
trampoline:
    mov ax, 0x2000
    mov ds, ax
    {body}
trampoline_end:
.code64
"""


def test_an_application_cpu_starts_by_init_and_start_up(tmp_path: Path) -> None:
    body = "mov dword ptr [8], 0x1234\n mov word ptr [12], cs\n 2: hlt\n jmp 2b"
    text = f"""
        {AP_START}
    1:  pause
        cmp word ptr [DATA + 12], 0x0800
        jne 1b
        mov eax, [DATA + 8]
        report
        done
        {TRAMPOLINE.format(body=body)}"""
    with TcgMachine(assemble(text, tmp_path), cpus=2) as machine:
        machine.start(1)
        machine.run()
        assert machine.results() == [0x1234]


def test_init_sends_a_running_cpu_back_to_wait_and_start_up_restarts_it(tmp_path: Path) -> None:
    body = "lock inc dword ptr [8]\n 2: jmp 2b"
    text = f"""
        {AP_START}
    1:  pause
        cmp dword ptr [DATA + 8], 1
        jb 1b
        apic 0x300, 0x00004500
        apic 0x300, 0x00004608
    2:  pause
        cmp dword ptr [DATA + 8], 2
        jb 2b
        done
        {TRAMPOLINE.format(body=body)}"""
    with TcgMachine(assemble(text, tmp_path), cpus=2) as machine:
        machine.start(1)
        assert machine.run() == lib.SC_EXIT_COLD
        assert machine.word(DATA + 8) == 2


@pytest.mark.parametrize(
    ("name", "command"),
    [("self", "0x00044041"), ("all", "0x00084041"), ("physical", "0x00004041"), ("logical", "0x00004841")],
)
def test_an_interprocessor_interrupt_reaches_its_target(name: str, command: str, tmp_path: Path) -> None:
    text = f"""
        gate 0x41, handler
        {LAPIC_ON}
        apic 0xd0, 0x01000000
        apic 0x310, {"0x01000000" if name == "logical" else "0"}
        sti
        apic 0x300, {command}
    1:  pause
        mov eax, [DATA]
        test eax, eax
        jz 1b
        report
        done
        {COUNT}"""
    with TcgMachine(assemble(text, tmp_path)) as machine:
        machine.run()
        assert machine.results() == [1]


def test_a_non_maskable_interrupt_wakes_a_cpu_that_halted_with_interrupts_off(tmp_path: Path) -> None:
    text = f"""
        gate 2, nmi
        {LAPIC_ON}
        cli
        apic 0x310, 0
        apic 0x300, 0x00004400
    1:  hlt
        jmp 1b
    nmi:
        mov eax, 2
        report
        done
        iretq"""
    with TcgMachine(assemble(text, tmp_path)) as machine:
        machine.run()
        assert machine.results() == [2]


def test_the_task_priority_holds_back_lower_vectors_until_it_falls(tmp_path: Path) -> None:
    text = f"""
        gate 0x41, handler
        {LAPIC_ON}
        mov eax, 5
        mov cr8, rax
        sti
        apic 0x310, 0
        apic 0x300, 0x00044041
        pause
        mov eax, [DATA]
        report
        xor eax, eax
        mov cr8, rax
        pause
        mov eax, [DATA]
        report
        done
        {COUNT}"""
    with TcgMachine(assemble(text, tmp_path)) as machine:
        machine.run()
        assert machine.results() == [0, 1]
