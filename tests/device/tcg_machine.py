"""A bare machine on the software CPU: RAM, the bus, and a program of a few instructions in 64-bit mode.

Programs are GNU assembler, Intel syntax, loaded at CODE with flat identity paging of the first 4 GiB. Port RESULT takes
values the test looks at, port DONE ends the program.
"""

from __future__ import annotations

import ctypes
import mmap
import shutil
import struct
import subprocess
import threading
from pathlib import Path
from typing import Any

from vmm_core._native import ffi, lib
from vmm_core.accel.base import BootRegisters
from vmm_core.accel.tcg.vm import TcgVm
from vmm_core.config.records import CpuTopology

MIB = 1 << 20
RAM = 16 * MIB
CODE, STACK, DATA, PML4 = 0x10000, 0x9000, 0x20000, 0x1000
GDT, IDT = 0x8000, 0x7000
RESULT, DONE = 0x500, 0x501
COLD_MMIO = 0xF0000000
PRELUDE = (Path(__file__).parent / "tcg_prelude.S").read_text()

missing_compiler = None if shutil.which("gcc") and shutil.which("ld") else "gcc and ld are not installed"


def assemble(program: str, directory: Path, base: int = CODE) -> bytes:
    """Return the machine code of `program` (after the prelude's macros), linked at `base`."""
    source, code, image = directory / "guest.S", directory / "guest.o", directory / "guest.bin"
    source.write_text(f".intel_syntax noprefix\n{PRELUDE}\n.text\n.globl _start\n_start:\n{program}\n")
    subprocess.run(["gcc", "-c", "-o", code, source], check=True)
    layout = ["--no-warn-rwx-segments", f"-Ttext={base:#x}", "--oformat=binary"]
    subprocess.run(["ld", *layout, "-o", str(image), str(code)], check=True)
    return image.read_bytes()


class TcgMachine:
    """Use as a context manager. Accesses that reach Python are recorded in `log` and answered from `answers`."""

    def __init__(self, program: bytes, *, cpus: int = 1, ram_fd: int = -1, code_buffer: int = 16 * MIB) -> None:
        self.bus = lib.sc_bus_new()
        self.vm = TcgVm(self.bus, CpuTopology(cpus=cpus, max_cpus=cpus, cores=cpus), code_buffer)
        self.memory = mmap.mmap(ram_fd, RAM)
        self._pin = ctypes.c_char.from_buffer(self.memory)
        self.vm.add_ram(0, RAM, ctypes.addressof(self._pin))
        self.vm.create_vcpus(cpus)
        for base, length, is_pio in ((RESULT, 2, True), (COLD_MMIO, 0x1000, False)):
            assert lib.sc_bus_add_cold(self.bus, is_pio, base, length) == 0
        self.records = [ffi.new("struct sc_exit *") for _ in range(cpus)]
        self.log: list[tuple[int, int, int]] = []  # address, size, value (-1: a read)
        self.answers: dict[int, int] = {}
        self.threads: list[threading.Thread] = []
        self.stopping = False
        self._write_tables()
        self.memory[CODE : CODE + len(program)] = program
        self.vm.set_boot_registers(
            BootRegisters(
                rip=CODE, rsi=0, rsp=STACK, cr3=PML4, gdt_base=GDT, gdt_limit=0x2F, idt_base=IDT, idt_limit=0xFFF
            )
        )

    def _write_tables(self) -> None:
        descriptors = (0, 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00008B000000FFFF, 0)
        self.memory[GDT : GDT + 48] = struct.pack("<6Q", *descriptors)
        struct.pack_into("<Q", self.memory, PML4, 0x2003)
        struct.pack_into("<4Q", self.memory, 0x2000, 0x3003, 0x4003, 0x5003, 0x6003)
        for page in range(2048):
            struct.pack_into("<Q", self.memory, 0x3000 + 8 * page, page << 21 | 0x83)

    def word(self, address: int) -> int:
        """The 64-bit word at `address` of guest memory."""
        return int(struct.unpack_from("<Q", self.memory, address)[0])

    def results(self) -> list[int]:
        return [value for address, _, value in self.log if address == RESULT]

    def step(self, cpu: int = 0) -> int:
        """Run until the next exit; answer and record it if it is an access."""
        record = self.records[cpu]
        reason = self.vm.run_vcpu(cpu, record)
        if reason == lib.SC_EXIT_COLD:
            self._answer(record.access)
        return reason

    def _answer(self, access: Any) -> None:
        if access.is_write:
            self.log.append((access.address, access.size, access.data))
        else:
            self.log.append((access.address, access.size, -1))
            access.data = self.answers.get(access.address, 0)

    def run(self, cpu: int = 0, limit: float = 20.0) -> int:
        """Run until the program is done or the vCPU stops; returns the last reason (a kick after `limit` seconds)."""
        guard = threading.Timer(limit, self.vm.kick, (cpu,))
        guard.start()
        try:
            while True:
                reason = self.step(cpu)
                if reason != lib.SC_EXIT_COLD or self.records[cpu].access.address == DONE or self.stopping:
                    return reason
        finally:
            guard.cancel()
            guard.join()

    def start(self, cpu: int) -> None:
        """Run `cpu` on a thread of its own until `close` or the program's end."""
        thread = threading.Thread(target=self.run, args=(cpu, 60.0))
        self.threads.append(thread)
        thread.start()

    def close(self) -> None:
        self.stopping = True
        for cpu in range(len(self.records)):
            self.vm.kick(cpu)
        for thread in self.threads:
            thread.join()
        self.vm.close()
        lib.sc_bus_free(self.bus)

    def __enter__(self) -> TcgMachine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
