"""The guest's output: straight through, never blocking a vCPU, nothing lost that a driver can hold back."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import socket
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.device.uart_port import FCR, IER, IER_THRI, IIR_NONE, IIR_THRI, LSR, LSR_THRE, THR, UartPort
from vmm_core._native import lib

ROOM = 64 * 1024
IN_PIPE = 4097  # one full page; the first byte of the last page ends writability


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe of two pages, whose writing end blocks, as a shared standard output does."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 8192)
    os.set_blocking(reader, False)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def drain(fd: int) -> bytes:
    data = bytearray()
    while select.select([fd], [], [], 0)[0]:
        chunk = os.read(fd, 65536)
        if not chunk:
            break
        data += chunk
    return bytes(data)


def pump_all(port: UartPort, fd: int) -> bytes:
    """Read and pump until nothing waits."""
    data = drain(fd)
    while port.pump() == 1:
        data += drain(fd)
    return data + drain(fd)


def pattern(length: int) -> bytes:
    return bytes(index * 7 % 251 for index in range(length))


def test_output_is_there_before_the_guest_goes_on(pipe: tuple[int, int]) -> None:
    port = UartPort(pipe[1])
    port.send(b"Hello")
    assert os.read(pipe[0], 64) == b"Hello"
    assert not port.notified()
    port.close()


def test_a_stalled_reader_never_blocks_the_vcpu_and_loses_nothing_that_fits(pipe: tuple[int, int]) -> None:
    port = UartPort(pipe[1])
    data = pattern(IN_PIPE + ROOM)
    port.send(data)
    assert port.notified()
    assert not port.notified()
    assert lib.sc_uart_lost(port.handle) == 0
    assert pump_all(port, pipe[0]) == data
    port.close()


def test_a_polling_driver_is_never_held_back_and_the_loss_is_counted(pipe: tuple[int, int]) -> None:
    port = UartPort(pipe[1])
    port.send(pattern(IN_PIPE + ROOM + 1000))
    assert lib.sc_uart_lost(port.handle) == 1000
    assert pump_all(port, pipe[0]) == pattern(IN_PIPE + ROOM)
    port.close()


def test_an_interrupt_driven_driver_is_held_back_and_loses_nothing(pipe: tuple[int, int]) -> None:
    """What Linux' tty does: fill the FIFO on each transmit interrupt, wait otherwise."""
    port = UartPort(pipe[1])
    port.write(FCR, 1)
    port.write(IER, IER_THRI)
    data, sent, got = pattern(4 * ROOM), 0, b""
    while sent < len(data):
        if port.source() == IIR_THRI:
            assert port.read(LSR) & LSR_THRE
            for byte in data[sent : sent + 16]:
                port.write(THR, byte)
            sent += 16
        else:
            assert (port.line, port.read(LSR) & LSR_THRE) == (0, 0)
            got += drain(pipe[0])
            port.pump()
    assert lib.sc_uart_lost(port.handle) == 0
    assert got + pump_all(port, pipe[0]) == data
    port.close()


def test_a_held_back_driver_may_still_print_by_polling(pipe: tuple[int, int]) -> None:
    """printk() disables interrupts and polls: it must find the transmitter ready, or the kernel spins for each byte."""
    port = UartPort(pipe[1])
    port.write(IER, IER_THRI)
    while port.source() == IIR_THRI:
        port.write(THR, 0x2E)
    assert not port.read(LSR) & LSR_THRE
    port.write(IER, 0)
    port.send(b"oops")
    port.write(IER, IER_THRI)
    assert port.source() == IIR_NONE
    assert pump_all(port, pipe[0]).endswith(b"....oops")
    assert (port.line, port.source()) == (1, IIR_THRI)
    port.close()


def test_a_shared_descriptor_stays_blocking(pipe: tuple[int, int]) -> None:
    port = UartPort(pipe[1])
    port.send(pattern(ROOM))
    assert os.get_blocking(pipe[1])
    port.close()


def test_a_stalled_terminal_never_blocks_the_vcpu() -> None:
    master, slave = pty.openpty()
    tty.setraw(slave)
    port = UartPort(slave)
    data = pattern(ROOM)
    port.send(data)
    assert pump_all(port, master) == data
    port.close()
    os.close(master)
    os.close(slave)


def test_a_stalled_socket_never_blocks_the_vcpu() -> None:
    ours, theirs = socket.socketpair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    port = UartPort(ours.fileno())
    data = pattern(ROOM)
    port.send(data)
    assert port.notified()
    assert pump_all(port, theirs.fileno()) == data
    port.close()
    ours.close()
    theirs.close()


def test_output_to_a_file_is_complete(tmp_path: Path) -> None:
    with open(tmp_path / "console.log", "wb") as file:
        port = UartPort(file.fileno())
        port.send(pattern(10_000))
        port.close()
    assert (tmp_path / "console.log").read_bytes() == pattern(10_000)


def test_a_vanished_reader_is_told_once_and_output_goes_on_to_nowhere() -> None:
    ours, theirs = socket.socketpair()
    port = UartPort(ours.fileno())
    theirs.close()
    port.send(b"is anybody there?")
    assert port.notified()
    assert [port.pump() < 0, port.pump()] == [True, 0]
    port.send(pattern(2 * ROOM))
    assert (port.pump(), lib.sc_uart_lost(port.handle)) == (0, 0)
    port.close()
    ours.close()


def test_a_vanished_reader_frees_a_driver_that_was_held_back() -> None:
    ours, theirs = socket.socketpair()
    port = UartPort(ours.fileno())
    port.write(IER, IER_THRI)
    while port.source() == IIR_THRI:
        port.write(THR, 0x2E)
    theirs.close()
    assert port.pump() < 0
    assert (port.line, port.source()) == (1, IIR_THRI)
    port.close()
    ours.close()


def test_a_new_reader_gets_what_is_sent_from_then_on(pipe: tuple[int, int]) -> None:
    first, second = socket.socketpair()
    port = UartPort(first.fileno())
    port.send(b"old")
    lib.sc_uart_set_output(port.handle, -1)
    first.close()
    port.send(b"nobody hears this")
    lib.sc_uart_set_output(port.handle, pipe[1])
    port.send(b"new")
    assert second.recv(64) == b"old"
    assert second.recv(64) == b""
    assert os.read(pipe[0], 64) == b"new"
    port.close()
    second.close()


def test_uarts_leave_nothing_behind() -> None:
    before = os.listdir("/proc/self/fd")
    for _ in range(1000):
        UartPort().close()
    assert os.listdir("/proc/self/fd") == before
