"""The vCPU loop on a real /dev/kvm: which accesses stay in C, which reach Python, and how a guest ends."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tests.device.kvm_guest import (
    CODE,
    DONE,
    HOLE,
    IN_DX,
    JUMP_TO_RBX,
    LOAD,
    OUT_DX,
    REP_INSB,
    REP_OUTSB,
    STORE,
    UD2,
    TinyGuest,
    eax,
    ebx,
    ecx,
    edi,
    edx,
    esi,
    needs_kvm,
    rax,
    repeat,
)
from vmm_core._native import ffi, lib

pytestmark = needs_kvm
MakeGuest = Callable[..., TinyGuest]
VALUE = 0x8877_6655_4433_2211


@pytest.fixture
def guest() -> Iterator[MakeGuest]:
    made: list[TinyGuest] = []

    def make(code: bytes) -> TinyGuest:
        made.append(TinyGuest(code))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_unclaimed_ports_and_memory_never_reach_python(guest: MakeGuest) -> None:
    body = b"\xe6\x80" + edx(0xCF8) + OUT_DX[4] + ebx(HOLE) + STORE[4] + LOAD[8]
    tiny = guest(repeat(200, body) + DONE)
    tiny.run_to_end()
    assert tiny.exits[0].run_count == 4 * 200 + 1


def test_unclaimed_reads_give_the_guest_all_ones(guest: MakeGuest) -> None:
    tiny = guest(
        eax(0) + edx(0xCFC) + IN_DX[4] + ebx(0x9000) + STORE[4] + ebx(HOLE) + LOAD[8] + ebx(0x9004) + STORE[8] + DONE
    )
    tiny.run_to_end()
    assert tiny.ram[0x9000:0x900C] == b"\xff" * 12


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_cold_port_is_answered_by_python(guest: MakeGuest, size: int) -> None:
    tiny = guest(eax(0) + edx(0x600) + IN_DX[size] + edx(0x604) + OUT_DX[size] + DONE)
    tiny.cold(True, 0x600, 8)
    value = VALUE & (1 << 8 * size) - 1
    assert tiny.run() == lib.SC_EXIT_COLD
    assert tiny.access()[:4] == (True, False, 0x600, size)
    tiny.exits[0].access.data = value
    assert tiny.run() == lib.SC_EXIT_COLD
    assert tiny.access() == (True, True, 0x604, size, value)
    tiny.run_to_end()


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_cold_memory_is_answered_by_python(guest: MakeGuest, size: int) -> None:
    tiny = guest(rax(0) + ebx(HOLE + 0x100) + LOAD[size] + ebx(HOLE + 0x200) + STORE[size] + DONE)
    tiny.cold(False, HOLE, 0x1000)
    value = VALUE & (1 << 8 * size) - 1
    assert tiny.run() == lib.SC_EXIT_COLD
    assert tiny.access()[:4] == (False, False, HOLE + 0x100, size)
    tiny.exits[0].access.data = value
    assert tiny.run() == lib.SC_EXIT_COLD
    assert tiny.access() == (False, True, HOLE + 0x200, size, value)
    tiny.run_to_end()


def test_an_access_across_a_page_border_arrives_complete(guest: MakeGuest) -> None:
    tiny = guest(rax(VALUE) + ebx(HOLE + 0xFFD) + STORE[8] + DONE)
    tiny.cold(False, HOLE, 0x2000)
    written: dict[int, int] = {}
    while tiny.run() == lib.SC_EXIT_COLD and not tiny.access()[0]:
        _pio, is_write, address, size, data = tiny.access()
        assert is_write
        assert size in (1, 2, 4, 8)
        written.update(zip(range(address, address + size), data.to_bytes(size, "little"), strict=True))
    assert written == dict(zip(range(HOLE + 0xFFD, HOLE + 0x1005), VALUE.to_bytes(8, "little"), strict=True))


def test_string_output_reaches_the_serial_port_without_python(guest: MakeGuest) -> None:
    text = b"one instruction, many characters\n" * 20
    tiny = guest(esi(0x20000) + ecx(len(text)) + edx(0x3F8) + REP_OUTSB + DONE)
    tiny.write(0x20000, text)
    reader, writer = os.pipe()
    uart = lib.sc_uart_new(tiny.vm.irqchip, 4, writer)
    assert lib.sc_bus_add_uart(tiny.bus, True, 0x3F8, uart) == 0
    tiny.run_to_end()
    assert os.read(reader, 4096) == text
    lib.sc_uart_free(uart)
    os.close(reader)
    os.close(writer)


def test_string_input_asks_python_for_each_element(guest: MakeGuest) -> None:
    tiny = guest(edi(0x20000) + ecx(5) + edx(0x600) + REP_INSB + DONE)
    tiny.cold(True, 0x600, 1)
    for byte in b"hello":
        assert tiny.run() == lib.SC_EXIT_COLD
        assert tiny.access()[:4] == (True, False, 0x600, 1)
        tiny.exits[0].access.data = byte
    tiny.run_to_end()
    assert tiny.ram[0x20000:0x20006] == b"hello\0"


def test_virtio_interrupt_status_is_read_without_python(guest: MakeGuest) -> None:
    tiny = guest(ebx(HOLE + 0x60) + LOAD[4] + ebx(0x9000) + STORE[4] + eax(2) + ebx(HOLE + 0x64) + STORE[4] + DONE)
    state = ffi.new("uint32_t *", 2)
    assert lib.sc_bus_add_virtio_mmio(tiny.bus, HOLE, state) == 0
    tiny.run_to_end()
    assert (tiny.word(0x9000), state[0]) == (3, 0)


def test_the_guest_starts_with_the_registers_of_the_boot_protocol(guest: MakeGuest) -> None:
    """rsi, rsp, and the selectors of cs, ds, es, fs, gs and ss, as the guest sees them."""
    save = b"\x89\x34\x25\x00\x90\x00\x00\x89\x24\x25\x04\x90\x00\x00"
    selectors = [0x0C, 0x1C, 0x04, 0x24, 0x2C, 0x14]  # cs ds es fs gs ss, as reg field of mov %sreg, disp32
    for index, field in enumerate(selectors):
        save += bytes([0x8C, field, 0x25]) + (0x9008 + 2 * index).to_bytes(4, "little")
    tiny = guest(save + b"\x0f\x00\xc8\x66\xa3" + (0x9014).to_bytes(8, "little") + DONE)  # str %eax; mov %ax, 0x9014
    tiny.run_to_end()
    assert (tiny.word(0x9000), tiny.word(0x9004)) == (0x7000, 0x80000)
    assert tiny.ram[0x9008:0x9016] == b"\x10\0" + b"\x18\0" * 5 + b"\x20\0"


def test_a_triple_fault_is_a_shutdown(guest: MakeGuest) -> None:
    tiny = guest(UD2)
    tiny.start_at(CODE, idt_limit=0)
    assert tiny.run() == lib.SC_EXIT_SHUTDOWN
    assert tiny.message() == "triple fault"


def test_a_guest_that_runs_into_nowhere_fails_with_its_address(guest: MakeGuest) -> None:
    tiny = guest(ebx(HOLE) + JUMP_TO_RBX)
    assert tiny.run() == lib.SC_EXIT_FAILED
    assert "0xd0000000" in tiny.message()


def test_the_last_cold_access_can_be_followed_by_a_look_at_the_guest(guest: MakeGuest) -> None:
    tiny = guest(DONE + DONE)
    tiny.run_to_end()
    tiny.run_to_end()
    assert CODE < tiny.vm.instruction_pointer(0) <= CODE + 4
