"""The 16550A's registers, as Linux' 8250 driver probes and uses them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.device.uart_port import (
    DLL,
    DLM,
    FCR,
    IER,
    IER_MSI,
    IER_RDI,
    IER_RLSI,
    IER_THRI,
    IIR,
    IIR_MSI,
    IIR_NONE,
    IIR_RDI,
    IIR_RLSI,
    IIR_THRI,
    IIR_TIMEOUT,
    LCR,
    LOOP,
    LSR,
    LSR_BI,
    LSR_DR,
    LSR_OE,
    LSR_TEMT,
    LSR_THRE,
    MCR,
    MSR,
    RBR,
    SCR,
    THR,
    UartPort,
)
from vmm_core._native import lib


@pytest.fixture
def uart() -> Iterator[UartPort]:
    port = UartPort()
    yield port
    port.close()


def test_a_driver_recognizes_a_16550a(uart: UartPort) -> None:
    """The sequence of Linux' autoconfig() and autoconfig_16550a()."""
    uart.write(IER, 0)
    assert uart.read(IER) & 0x0F == 0
    uart.write(IER, 0x0F)
    assert uart.read(IER) & 0x0F == 0x0F
    uart.write(IER, 0)
    uart.write(MCR, LOOP | 0x0A)
    assert uart.read(MSR) & 0xF0 == 0x90
    uart.write(MCR, 0)
    uart.write(LCR, 0xBF)
    uart.write(FCR, 0)  # EFR of a 16650
    uart.write(LCR, 0)
    uart.write(FCR, 1)
    assert uart.read(IIR) >> 6 == 3  # 16550A, not 8250, 16450 or 16550
    uart.write(LCR, 0x80)
    assert uart.read(FCR) != 0  # no 16650
    uart.write(LCR, 0xBF)
    assert uart.read(FCR) != 0
    uart.write(LCR, 0)
    for latch in (0, 0x80):  # no 16750 with its 64-byte FIFO
        uart.write(LCR, latch)
        uart.write(FCR, 0x21)
        assert uart.read(IIR) >> 5 == 6
    uart.write(LCR, 0)
    uart.write(IER, 0x40)  # no XScale
    assert not uart.read(IER) & 0x40


def test_a_driver_trusts_the_transmit_interrupt(uart: UartPort) -> None:
    """serial8250_do_startup() asks twice whether enabling THRI raises it; otherwise it polls for ever after."""
    for _ in range(2):
        uart.write(IER, IER_THRI)
        assert uart.source() == IIR_THRI
        uart.write(IER, 0)
        assert uart.source() == IIR_NONE


def test_the_divisor_latch_hides_data_and_interrupt_enable(uart: UartPort) -> None:
    uart.write(IER, IER_RDI)
    uart.write(LCR, 0x83)
    uart.write(DLL, 0x01)
    uart.write(DLM, 0x02)
    assert (uart.read(DLL), uart.read(DLM), uart.read(LCR)) == (1, 2, 0x83)
    uart.write(LCR, 0x03)
    assert (uart.read(RBR), uart.read(IER)) == (0, IER_RDI)


def test_the_scratch_register_keeps_its_value_and_the_status_registers_do_not(uart: UartPort) -> None:
    uart.write(SCR, 0x5A)
    uart.write(LSR, 0)
    uart.write(MSR, 0)
    assert (uart.read(SCR), uart.read(LSR), uart.read(MSR)) == (0x5A, LSR_THRE | LSR_TEMT, 0xB0)


def test_each_transmitted_byte_raises_a_new_edge_after_acknowledgement(uart: UartPort) -> None:
    uart.write(IER, IER_THRI)
    for _ in range(3):
        assert uart.line == 1
        assert uart.source() == IIR_THRI
        assert uart.line == 0
        uart.write(THR, 0x41)
    assert uart.edges == [1, 0, 1, 0, 1, 0, 1]


def test_reading_another_source_does_not_acknowledge_the_transmitter(uart: UartPort) -> None:
    uart.write(IER, IER_THRI | IER_RDI)
    uart.receive(b"x")
    assert uart.source() == IIR_RDI
    uart.read(RBR)
    assert (uart.line, uart.source()) == (1, IIR_THRI)
    assert (uart.line, uart.source()) == (0, IIR_NONE)


def test_input_interrupts_until_it_is_read(uart: UartPort) -> None:
    uart.write(IER, IER_RDI)
    assert uart.receive(b"hi") == 2
    assert uart.line == 1
    assert uart.read(LSR) & LSR_DR
    assert bytes([uart.read(RBR), uart.read(RBR)]) == b"hi"
    assert (uart.line, uart.read(LSR) & LSR_DR, uart.read(RBR)) == (0, 0, 0)


@pytest.mark.parametrize(("bits", "level"), [(0x00, 1), (0x40, 4), (0x80, 8), (0xC0, 14)])
def test_input_below_the_trigger_level_is_reported_as_a_time_out(uart: UartPort, bits: int, level: int) -> None:
    uart.write(FCR, 1 | bits)
    uart.write(IER, IER_RDI)
    if level > 1:
        uart.receive(bytes(level - 1))
        assert uart.read(IIR) == 0xC0 | IIR_TIMEOUT
    uart.receive(bytes(1))
    assert uart.read(IIR) == 0xC0 | IIR_RDI


def test_clearing_the_fifo_drops_input_and_its_interrupt(uart: UartPort) -> None:
    uart.write(FCR, 1)
    uart.write(IER, IER_RDI)
    uart.receive(b"noise")
    uart.write(FCR, 1 | 2)
    assert (uart.line, uart.read(LSR) & LSR_DR) == (0, 0)
    uart.receive(b"more")
    uart.write(FCR, 0)
    assert uart.read(LSR) & LSR_DR == 0


def test_loopback_returns_what_is_sent_and_keeps_it_inside() -> None:
    import os

    reader, writer = os.pipe2(os.O_NONBLOCK)
    port = UartPort(writer)
    port.write(MCR, LOOP)
    port.write(FCR, 1)
    port.write(THR, 0xAE)
    assert (port.read(LSR) & LSR_DR, port.read(RBR)) == (LSR_DR, 0xAE)
    with pytest.raises(BlockingIOError):
        os.read(reader, 1)
    port.close()
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(("fcr", "depth", "kept"), [(1, 16, bytes(range(16))), (0, 1, b"\x10")])
def test_loopback_overruns_a_full_receiver(uart: UartPort, fcr: int, depth: int, kept: bytes) -> None:
    uart.write(FCR, fcr)
    uart.write(MCR, LOOP)
    uart.write(IER, IER_RLSI)
    for value in range(depth):
        uart.write(THR, value)
    assert uart.line == 0
    uart.write(THR, 16)
    assert (uart.line, uart.source()) == (1, IIR_RLSI)
    assert uart.read(LSR) & LSR_OE
    assert (uart.line, uart.read(LSR) & LSR_OE) == (0, 0)
    assert bytes(uart.read(RBR) for _ in range(depth)) == kept


def test_loopback_modem_lines_raise_and_clear_their_changes(uart: UartPort) -> None:
    uart.write(MCR, LOOP)
    uart.read(MSR)
    uart.write(IER, IER_MSI)
    for mcr, lines in ((1, 0x20), (2, 0x10), (4, 0x40), (8, 0x80)):
        uart.write(MCR, LOOP | mcr)
        assert uart.read(MSR) & 0xF0 == lines
    assert uart.read(MSR) & 0x0F == 0
    uart.write(MCR, LOOP | 2)
    assert (uart.line, uart.source()) == (1, IIR_MSI)
    assert uart.read(MSR) == 0x10 | 0x08 | 0x01
    assert uart.line == 0


def test_the_ring_indicators_change_is_its_trailing_edge(uart: UartPort) -> None:
    uart.write(MCR, LOOP)
    uart.read(MSR)
    uart.write(MCR, LOOP | 4)
    assert uart.read(MSR) == 0x40
    uart.write(MCR, LOOP)
    assert uart.read(MSR) == 0x04


def test_a_break_is_reported_once_with_a_zero_byte(uart: UartPort) -> None:
    uart.write(IER, IER_RLSI)
    lib.sc_uart_receive_break(uart.handle)
    assert uart.source() == IIR_RLSI
    assert uart.read(LSR) & (LSR_BI | LSR_DR) == LSR_BI | LSR_DR
    assert uart.read(RBR) == 0
    assert uart.read(LSR) & (LSR_BI | LSR_DR) == 0


def test_no_interrupt_without_its_enable_bit(uart: UartPort) -> None:
    uart.receive(b"x")
    lib.sc_uart_receive_break(uart.handle)
    uart.write(THR, 1)
    uart.write(MCR, LOOP)
    assert uart.edges == []
    assert uart.source() == IIR_NONE


def test_input_that_does_not_fit_waits_outside_and_is_asked_for(uart: UartPort) -> None:
    data = bytes(range(256)) * 4
    taken = uart.receive(data)
    assert 16 <= taken < len(data)
    assert not uart.notified()
    got = bytearray()
    while len(got) < len(data):
        while uart.read(LSR) & LSR_DR:
            got.append(uart.read(RBR))
        if taken < len(data):
            assert uart.notified()
            taken += uart.receive(data[taken:])
    assert got == data


def test_input_waits_while_the_line_is_looped_back(uart: UartPort) -> None:
    uart.write(MCR, LOOP)
    assert uart.receive(b"typed early") == 0
    uart.write(MCR, 0)
    assert uart.notified()
    assert uart.receive(b"typed early") == 11


def test_reset_forgets_registers_input_and_interrupts(uart: UartPort) -> None:
    uart.write(SCR, 1)
    uart.write(MCR, 3)
    uart.write(IER, IER_RDI)
    uart.receive(b"x")
    lib.sc_uart_reset(uart.handle)
    assert uart.line == 0
    assert [uart.read(register) for register in (IER, IIR, LCR, MCR, LSR, SCR)] == [0, IIR_NONE, 0, 0, 0x60, 0]


def test_registers_that_do_not_exist_read_all_ones(uart: UartPort) -> None:
    uart.write(8, 1)
    assert uart.read(8) == 0xFF
