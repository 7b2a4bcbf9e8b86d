"""Code that changes under the software CPU: rewritten by itself, by another CPU, by another process."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.device.tcg_machine import DATA, MIB, TcgMachine, assemble, missing_compiler
from vmm_core._native import lib

pytestmark = pytest.mark.skipif(missing_compiler is not None, reason=str(missing_compiler))

FUNCTION = 0x30000  # `mov eax, N; ret`
RETURN = b"\xb8%s\xc3"

# Start CPU 1 in 64-bit mode at the label `ap`, with its own stack.
START_AP = """
    mov edi, 0x8000
    lea esi, [trampoline]
    mov ecx, trampoline_end - trampoline
    mov r8, [0x8000]
    mov r9, [0x8008]
    mov r10, [0x8010]
    mov r11, [0x8018]
    mov r12, [0x8020]
    mov r13, [0x8028]
    mov [0xc000], r8
    mov [0xc008], r9
    mov [0xc010], r10
    mov [0xc018], r11
    mov [0xc020], r12
    mov [0xc028], r13
    mov edi, 0xd000
    rep movsb
    apic 0xf0, 0x1ff
    apic 0x310, 0x01000000
    apic 0x300, 0x00004500
    apic 0x300, 0x0000460d
    jmp past_trampoline
.code16
trampoline:
    cli
    xor ax, ax
    mov ds, ax
    .byte 0x66
    lgdt [0xd000 + gdt_pointer - trampoline]
    mov eax, 0x20
    mov cr4, eax
    mov eax, 0x1000
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x100
    wrmsr
    mov eax, 0x80000011
    mov cr0, eax
    .byte 0x66, 0xea
    .long ap64
    .word 0x10
gdt_pointer:
    .word 0x2f
    .long 0xc000
trampoline_end:
.code64
ap64:
    mov ax, 0x18
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov esp, 0xb000
    jmp ap
past_trampoline:
"""


def test_a_function_rewritten_in_place_and_through_another_mapping_is_new_at_once(tmp_path: Path) -> None:
    """Page 0x40000000 is made a second mapping of the function's page."""
    text = """
        mov qword ptr [0x4000], 0x83
        mov ebx, 0x30000
        mov byte ptr [rbx], 0xb8
        mov byte ptr [rbx + 5], 0xc3
        mov r9d, 0x40030000
        xor r8d, r8d
    1:  inc r8d
        mov [rbx + 1], r8d
        call rbx
        cmp eax, r8d
        jne bad
        inc r8d
        mov [r9 + 1], r8d
        call rbx
        cmp eax, r8d
        jne bad
        cmp r8d, 4000
        jb 1b
        mov eax, 1
        report
        done
    bad:
        mov eax, 0xbad
        report
        done"""
    with TcgMachine(assemble(text, tmp_path)) as machine:
        machine.run()
        assert machine.results() == [1]


def test_a_block_that_rewrites_its_own_next_instruction_runs_the_new_one(tmp_path: Path) -> None:
    text = """
        mov ecx, 300
    1:  mov byte ptr [target + 1], 7
        mov byte ptr [target + 1], cl
    target:
        mov al, 0
        cmp al, cl
        jne bad
        dec ecx
        jnz 1b
        mov eax, 1
        report
        done
    bad:
        mov eax, 0xbad
        report
        done"""
    with TcgMachine(assemble(text, tmp_path)) as machine:
        machine.run()
        assert machine.results() == [1]


@pytest.mark.parametrize("offset", [0, 3, 61, 0xFFD], ids=["aligned", "unaligned", "over a line", "over a page"])
def test_locked_additions_of_two_cpus_lose_none(offset: int, tmp_path: Path) -> None:
    count = 20000 if offset == 0 else 1500
    text = f"""
        {START_AP}
        mov ecx, {count}
    1:  lock inc qword ptr [DATA + 0x1000 + {offset}]
        dec ecx
        jnz 1b
    2:  pause
        cmp dword ptr [DATA], 1
        jne 2b
        done
    ap:
        mov ecx, {count}
    1:  lock inc qword ptr [DATA + 0x1000 + {offset}]
        dec ecx
        jnz 1b
        mov dword ptr [DATA], 1
    2:  hlt
        jmp 2b"""
    with TcgMachine(assemble(text, tmp_path), cpus=2) as machine:
        machine.start(1)
        assert machine.run() == lib.SC_EXIT_COLD
        assert machine.word(DATA + 0x1000 + offset) == 2 * count


# One more at [rbx]; what is at [rbx + 8] is theirs, and 0 at first.
ADDITIONS = {
    "xadd": "mov eax, 1; lock xadd [rbx], rax",
    "cmpxchg": "mov rax, [rbx]; 2: lea rdx, [rax + 1]; lock cmpxchg [rbx], rdx; jne 2b",
    "xchg of a byte": "2: mov al, 1; xchg [rbx + 8], al; test al, al; jnz 2b; inc qword ptr [rbx]; mov [rbx + 8], al",
    "xchg of a word": "2: mov al, 1; xchg [rbx + 8], rax; test al, al; jnz 2b; inc qword ptr [rbx]; mov [rbx + 8], rax",
    "bts": "2: lock bts dword ptr [rbx + 8], 3; jc 2b; inc qword ptr [rbx]; lock btr dword ptr [rbx + 8], 3",
}


@pytest.mark.parametrize("addition", ADDITIONS.values(), ids=ADDITIONS)
def test_two_cpus_lose_no_addition_by_any_locked_instruction(addition: str, tmp_path: Path) -> None:
    """A kernel that loses one of these forgets a wake-up, and its task sleeps for ever."""
    loop = f"""
        mov ebx, DATA + 0x1000
        mov ecx, 20000
    1:  {addition}
        dec ecx
        jnz 1b"""
    text = f"""
        {START_AP}
        {loop}
    3:  pause
        cmp dword ptr [DATA], 1
        jne 3b
        done
    ap: {loop}
        mov dword ptr [DATA], 1
    3:  hlt
        jmp 3b"""
    with TcgMachine(assemble(text, tmp_path), cpus=2) as machine:
        machine.start(1)
        assert machine.run() == lib.SC_EXIT_COLD
        assert machine.word(DATA + 0x1000) == 40000


def test_code_rewritten_by_another_cpu_is_new_after_a_serializing_instruction(tmp_path: Path) -> None:
    """CPU 0 writes the function and then a sequence number; CPU 1 sees the number, serializes, and calls."""
    text = f"""
        mov ebx, {FUNCTION}
        mov byte ptr [rbx], 0xb8
        mov byte ptr [rbx + 5], 0xc3
        {START_AP}
        xor r8d, r8d
    1:  inc r8d
        mov [{FUNCTION} + 1], r8d
        mov [DATA], r8d
    2:  pause
        cmp [DATA + 0x1000], r8d
        jne 2b
        cmp r8d, 1000
        jb 1b
        mov eax, [DATA + 0x2000]
        report
        done
    ap:
        xor r9d, r9d
    1:  inc r9d
    2:  pause
        cmp [DATA], r9d
        jb 2b
        xor eax, eax
        cpuid
        mov ebx, {FUNCTION}
        call rbx
        cmp eax, r9d
        je 3f
        inc dword ptr [DATA + 0x2000]
    3:  mov [DATA + 0x1000], r9d
        jmp 1b"""
    with TcgMachine(assemble(text, tmp_path), cpus=2) as machine:
        machine.start(1)
        assert machine.run() == lib.SC_EXIT_COLD
        assert machine.results() == [0]


def test_cpus_that_rewrite_each_others_code_agree(tmp_path: Path) -> None:
    """Four functions in one page, written and called in turn by both: pages change owners all the time."""
    text = f"""
        {START_AP}
        mov r14d, 0
        mov r15d, 1
        call worker
        mov eax, [DATA + 0x2000]
        report
        done
    ap:
        mov r14d, 1
        mov r15d, 0
        call worker
    1:  hlt
        jmp 1b
    worker:
        xor r8d, r8d
    1:  inc r8d
        mov ecx, r8d
        and ecx, 3
        shl ecx, 6
        lea r10, [rcx + {FUNCTION}]
        mov r11d, r8d
        add r11d, r14d
        test r11d, 1
        jz 2f
        mov byte ptr [r10], 0xb8
        mov [r10 + 1], r8d
        mov byte ptr [r10 + 5], 0xc3
        mov [DATA], r8d
        jmp 3f
    2:  pause
        cmp [DATA], r8d
        jne 2b
    3:  xor eax, eax
        cpuid
        call r10
        cmp eax, r8d
        je 4f
        lock inc dword ptr [DATA + 0x2000]
    4:  mov [DATA + 0x1000 + r14 * 8], r8d
    5:  pause
        cmp [DATA + 0x1000 + r15 * 8], r8d
        jb 5b
        cmp r8d, 1000
        jb 1b
        ret"""
    with TcgMachine(assemble(text, tmp_path), cpus=2) as machine:
        machine.start(1)
        assert machine.run() == lib.SC_EXIT_COLD
        assert machine.results() == [0]


WRITER = """
import mmap, sys
ram = mmap.mmap(int(sys.argv[1]), 0)
log = mmap.mmap(int(sys.argv[2]), 0)
value, address = int(sys.argv[3]), int(sys.argv[4])
ram[address:address + 6] = b"\\xb8" + value.to_bytes(4, "little") + b"\\xc3"
log[address >> 15] |= 1 << (address >> 12 & 7)
"""


def _write_from_another_process(ram: int, log: int, value: int) -> None:
    command = [sys.executable, "-I", "-S", "-c", WRITER, str(ram), str(log), str(value), str(FUNCTION)]
    subprocess.run(command, check=True, pass_fds=(ram, log))


@pytest.mark.parametrize("how", ["an interrupt", "a new mapping"])
def test_code_written_by_another_process_is_new_once_the_guest_can_know_of_it(how: str, tmp_path: Path) -> None:
    """As a disk's backend fills a page that held a program: the write is marked in the dirty log, then announced."""
    wait = "sti\n hlt\n cli" if how == "an interrupt" else "mov rax, cr3\n mov cr3, rax"
    text = f"""
        gate 0x45, handler
        apic 0xf0, 0x1ff
        mov al, 0xff
        out 0x21, al
        ioapic 0x1a, 0x45
        ioapic 0x1b, 0
    1:  mov ebx, {FUNCTION}
        call rbx
        report
        done
        {wait}
        jmp 1b
    handler:
        eoi
        iretq"""
    ram_fd, log_fd = os.memfd_create("ram"), os.memfd_create("log")
    os.ftruncate(ram_fd, 16 * MIB)
    os.ftruncate(log_fd, 4096)
    log = mmap.mmap(log_fd, 4096)
    pin = ctypes.c_char.from_buffer(log)
    interrupt = os.eventfd(0, os.EFD_CLOEXEC)
    with TcgMachine(assemble(text, tmp_path), ram_fd=ram_fd) as machine:
        machine.vm.attach_dirty_log(ctypes.addressof(pin), 4096)
        machine.vm.add_irqfd(5, interrupt)
        for value in range(1, 6):
            _write_from_another_process(ram_fd, log_fd, value)
            if how == "an interrupt":
                os.eventfd_write(interrupt, 1)
            machine.run()
        assert machine.results() == [1, 2, 3, 4, 5]
    for fd in (ram_fd, log_fd, interrupt):
        os.close(fd)


def test_a_full_translation_buffer_is_begun_anew(tmp_path: Path) -> None:
    """A walk over 3 MiB of distinct code with a buffer of 1 MiB, twice."""
    text = """
        mov r8d, 2
    1:  mov edi, 0x100000
    2:  mov byte ptr [rdi], 0xb8
        mov [rdi + 1], edi
        mov byte ptr [rdi + 5], 0xc3
        call rdi
        cmp eax, edi
        jne bad
        add edi, 64
        cmp edi, 0x400000
        jb 2b
        dec r8d
        jnz 1b
        mov eax, 1
        report
        done
    bad:
        mov eax, 0xbad
        report
        done"""
    with TcgMachine(assemble(text, tmp_path), code_buffer=MIB) as machine:
        machine.run()
        assert machine.results() == [1]
