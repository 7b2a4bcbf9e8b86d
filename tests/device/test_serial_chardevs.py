"""Where the guest's serial port leads: pty, sockets, files, pipes; clients that come, go, stall and come again."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import stat
import subprocess
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.deadlines import Deadline
from tests.processes import LIMIT, TestMachine

FLOOD = bytes(range(33, 127)) * 100  # 9,400 bytes: more than a pty, or a pipe of a page, takes
Start = Callable[..., TestMachine]


@pytest.fixture
def start(tmp_path: Path, request: pytest.FixtureRequest) -> Start:
    def start_machine(*arguments: str, **popen: Any) -> TestMachine:
        machine = TestMachine(tmp_path, *arguments, **popen)
        request.addfinalizer(machine.close)
        return machine

    return start_machine


def receive(fd: int, count: int) -> bytes:
    """At least `count` bytes."""
    deadline, data = Deadline(LIMIT), b""
    while len(data) < count:
        assert select.select([fd], [], [], deadline.left())[0], f"only {data!r} came"
        chunk = os.read(fd, 65536)
        assert chunk, f"end after {data!r}"
        data += chunk
    return data


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(LIMIT)
    client.connect(str(path))
    return client


def open_pty(machine: TestMachine) -> int:
    """Open the client's end, and wait until the VM has seen it: a byte typed in reaches the guest."""
    qmp = machine.qmp()
    path = qmp.value("query-chardev")[0]["filename"].removeprefix("pty:")
    qmp.close()
    client = os.open(path, os.O_RDWR | os.O_NOCTTY)
    os.write(client, b"!")
    assert machine.read_serial(1) == b"!"
    return client


def test_a_pty_passes_every_byte_both_ways_unchanged(start: Start) -> None:
    machine = start("-serial", "pty")
    client = open_pty(machine)
    assert not termios.tcgetattr(client)[3] & (termios.ECHO | termios.ICANON | termios.ISIG)
    every = bytes(range(256))
    machine.print(every)
    assert receive(client, 256) == every
    os.write(client, every)
    assert machine.read_serial(256) == every
    os.close(client)


def test_the_path_of_a_pty_is_in_the_log(start: Start) -> None:
    machine = start("-serial", "pty")
    machine.driver.close()
    status, said = machine.wait()
    assert status == 0
    assert "chardev serial_chardev: redirected to /dev/pts/" in said


def test_a_pty_takes_one_client_after_the_other(start: Start) -> None:
    machine = start("-serial", "pty")
    for text in (b"first", b"second"):
        client = open_pty(machine)
        machine.print(text)
        assert receive(client, len(text)) == text
        os.close(client)


def test_a_guest_that_prints_to_a_pty_without_a_reader_is_not_held_back(start: Start) -> None:
    """What Linux' tty does when the transmitter never gets ready: the program that prints sleeps for ever."""
    machine = start("-serial", "pty")
    machine.print(FLOOD)
    assert int(machine.drive("inb 0x3fd"), 0) & 0x20
    client = open_pty(machine)
    machine.print(b"news")
    assert receive(client, 4) == b"news"
    os.close(client)


def test_a_reader_that_stalls_does_not_stop_the_vm_and_input_goes_on_afterwards(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "serial.sock"
    machine = start("-serial", f"socket,path={path},server,nowait")
    client = connect(path)
    client.sendall(b"!")
    assert machine.read_serial(1) == b"!"
    machine.print(FLOOD)
    qmp = machine.qmp()
    assert qmp.value("query-status")["running"] is True
    assert receive(client.fileno(), len(FLOOD)) == FLOOD
    client.sendall(b"still here?")
    assert machine.read_serial(11) == b"still here?"
    machine.print(b"yes")
    assert receive(client.fileno(), 3) == b"yes"
    client.close()


def test_a_paused_guest_holds_back_the_client_that_types(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "serial.sock"
    machine = start("-serial", f"socket,path={path},server,nowait")
    client = connect(path)
    client.setblocking(False)
    sent = 0
    while select.select([], [client], [], 0.3)[1]:
        sent += client.send(FLOOD)
    assert sent < 2 << 20
    client.setblocking(True)
    assert machine.read_serial(1000) == FLOOD[:1000]
    client.close()


def test_what_a_client_sent_before_it_left_reaches_the_guest(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "serial.sock"
    machine = start("-serial", f"socket,path={path},server,nowait")
    client = connect(path)
    client.sendall(FLOOD[:2000])
    client.close()
    assert machine.read_serial(2000) == FLOOD[:2000]


def test_a_socket_serves_clients_one_after_the_other_and_is_gone_afterwards(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "serial.sock"
    machine = start("-chardev", f"socket,id=c0,path={path},server,nowait", "-serial", "chardev:c0")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for text in (b"first", b"second"):
        client = connect(path)
        client.sendall(text)
        assert machine.read_serial(len(text)) == text
        machine.print(text)
        assert receive(client.fileno(), len(text)) == text
        client.close()
    qmp = machine.qmp()
    assert qmp.value("query-chardev")[0]["filename"] == f"unix:{path},server=on"
    qmp.value("quit")
    assert machine.wait()[0] == 0
    assert not path.exists()


def test_a_serial_port_on_tcp_works(start: Start) -> None:
    probe = socket.create_server(("127.0.0.1", 0))
    port = probe.getsockname()[1]
    probe.close()
    machine = start("-serial", f"socket,host=127.0.0.1,port={port},server,nowait")
    client = socket.create_connection(("127.0.0.1", port), LIMIT)
    client.sendall(b"over tcp")
    assert machine.read_serial(8) == b"over tcp"
    client.close()


def test_a_file_gets_the_output_and_starts_empty(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_text("from an earlier run")
    machine = start("-serial", f"file,path={log}")
    machine.print(b"Linux version 6\r\n")
    assert log.read_bytes() == b"Linux version 6\r\n"


def test_a_file_that_cannot_be_made_is_refused_by_name(start: Start, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="No such file or directory"):
        start("-serial", f"file,path={tmp_path}/missing/console.log")


def test_a_full_disk_under_the_console_does_not_end_the_vm(start: Start) -> None:
    machine = start("-serial", "file,path=/dev/full")
    machine.print(b"lost")
    qmp = machine.qmp()
    assert qmp.value("query-status")["running"] is True
    qmp.close()


@pytest.mark.parametrize("source", ["pipe", "file"])
def test_a_script_on_standard_input_reaches_the_guest_whole(start: Start, tmp_path: Path, source: str) -> None:
    (tmp_path / "script").write_bytes(FLOOD[:3000])
    if source == "file":
        stdin = os.open(tmp_path / "script", os.O_RDONLY)
    else:
        stdin, writer = os.pipe()
        os.write(writer, FLOOD[:3000])
        os.close(writer)
    machine = start("-serial", "stdio", stdin=stdin, stdout=subprocess.DEVNULL)
    os.close(stdin)
    assert machine.read_serial(3000) == FLOOD[:3000]
    qmp = machine.qmp()
    assert qmp.value("query-status")["running"] is True
    qmp.close()


def test_ctrl_a_is_an_ordinary_byte_where_there_is_no_terminal(start: Start) -> None:
    reader, writer = os.pipe()
    machine = start("-serial", "stdio", stdin=reader, stdout=subprocess.DEVNULL)
    os.write(writer, b"\x01x")
    assert machine.read_serial(2) == b"\x01x"
    os.close(reader)
    os.close(writer)


def test_standard_output_that_nobody_reads_does_not_stop_the_vm(start: Start) -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    machine = start("-serial", "stdio", stdin=subprocess.DEVNULL, stdout=writer)
    machine.print(FLOOD)
    assert os.get_blocking(writer)  # it is shared with whoever started the VM
    os.close(writer)
    assert receive(reader, len(FLOOD)) == FLOOD
    os.close(reader)


def test_a_vanished_reader_of_standard_output_does_not_end_the_vm(start: Start) -> None:
    reader, writer = os.pipe()
    machine = start("-serial", "stdio", stdin=subprocess.DEVNULL, stdout=writer)
    os.close(writer)
    os.close(reader)
    machine.print(b"is anybody there?")
    machine.driver.close()
    assert machine.wait()[0] == 0
