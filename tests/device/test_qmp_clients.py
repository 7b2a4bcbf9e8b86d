"""Clients of the monitor that are slow, hostile or many: none of them stops the VM, or makes it grow."""

from __future__ import annotations

import os
import select
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.deadlines import Deadline
from tests.processes import LIMIT, RawQmp, TestMachine, connect

MEBIBYTE = 1 << 20


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[TestMachine]:
    machine = TestMachine(tmp_path, "-serial", "pty")
    yield machine
    machine.close()


def alive(machine: TestMachine) -> bool:
    """The VM serves its devices and the next client of its monitor."""
    machine.drive("inb 0x3fd")
    client = machine.qmp()
    running = bool(client.value("query-status")["running"])
    client.close()
    return running


def test_the_socket_is_for_its_owner_only(machine: TestMachine) -> None:
    assert stat.S_IMODE(machine.qmp_path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "flood",
    [
        pytest.param(b'{"execute":"' + b"a" * 100_000, id="endless line"),
        pytest.param(b"[" * 100_000, id="deep nesting"),
        pytest.param(b'"' * 100_001, id="quotes"),
        pytest.param(os.urandom(100_000), id="random bytes"),
        pytest.param(b"\n" * 100_000, id="empty lines"),
        pytest.param(b'{"execute":"stop","arguments":{"a":' * 1000, id="nested commands"),
    ],
)
def test_a_hostile_client_is_cut_off_or_heard_but_never_served_to_death(machine: TestMachine, flood: bytes) -> None:
    client = machine.qmp()
    client.socket.settimeout(1)
    try:
        client.send(flood)
    except (BrokenPipeError, ConnectionResetError, TimeoutError):
        pass  # it is not listened to any more
    client.close()
    assert alive(machine)


def test_a_client_that_never_reads_is_not_asked_for_more(machine: TestMachine) -> None:
    client = machine.qmp()
    before = psutil.Process(machine.process.pid).memory_info().rss
    client.socket.setblocking(False)
    sent = 0
    while select.select([], [client.socket], [], 0.5)[1] and sent < 64 * MEBIBYTE:
        sent += client.socket.send(b'{"execute":"query-qmp-schema"}' * 1000)
    assert sent < 4 * MEBIBYTE
    machine.drive("inb 0x3fd")
    assert psutil.Process(machine.process.pid).memory_info().rss - before < 16 * MEBIBYTE
    client.close()
    assert alive(machine)


def test_a_slow_client_gets_every_answer(machine: TestMachine) -> None:
    """More answers than fit into the socket, to commands sent at once."""
    client = machine.qmp()
    client.send(b"".join(b'{"execute":"query-qmp-schema","id":%d}' % number for number in range(200)))
    assert [client.message()["id"] for _ in range(200)] == list(range(200))
    client.close()


def test_commands_before_a_hang_up_are_answered(machine: TestMachine) -> None:
    """What `printf … | socat - UNIX:…` does: it stops sending, and reads on."""
    client = machine.qmp()
    client.send(b"".join(b'{"execute":"query-qmp-schema","id":%d}' % number for number in range(100)))
    client.socket.shutdown(socket.SHUT_WR)
    assert [client.message()["id"] for _ in range(100)] == list(range(100))
    assert client.ends()
    assert alive(machine)


def test_events_to_a_client_that_does_not_read_are_bounded(machine: TestMachine) -> None:
    client = machine.qmp()
    client.send(b'{"execute":"stop"}{"execute":"cont"}' * 2000)
    machine.drive("inb 0x3fd")
    assert client.message()["event"] == "STOP"
    client.close()
    watcher = machine.qmp()
    state = watcher.value("query-status")["status"]
    assert state in ("running", "paused")
    watcher.close()


def test_many_connections_wait_for_their_turn_and_leak_nothing(machine: TestMachine) -> None:
    machine.qmp().close()
    assert alive(machine)
    before = machine.descriptors()
    for _ in range(200):
        client = machine.qmp()
        client.close()
    crowd = []
    for _ in range(200):
        waiting = socket.socket(socket.AF_UNIX)
        waiting.setblocking(False)
        if waiting.connect_ex(str(machine.qmp_path)):
            waiting.close()
        else:
            crowd.append(waiting)
    machine.drive("inb 0x3fd")
    assert machine.descriptors() <= before + 1
    for waiting in crowd:
        waiting.close()
    assert alive(machine)


def test_the_second_client_is_served_when_the_first_has_gone(machine: TestMachine) -> None:
    first = machine.qmp()
    second = socket.socket(socket.AF_UNIX)
    second.connect(str(machine.qmp_path))
    assert first.value("query-status")
    assert not select.select([second], [], [], 0)[0]
    first.close()
    assert select.select([second], [], [], Deadline(LIMIT).left())[0]
    second.close()


@pytest.fixture
def two_monitors(tmp_path: Path) -> Iterator[TestMachine]:
    """The second one is at `other_monitor`."""
    chardev = f"socket,id=m,path={other_monitor(tmp_path)},server,nowait"
    machine = TestMachine(tmp_path, "-serial", "pty", "-chardev", chardev, "-mon", "chardev=m,mode=control")
    yield machine
    machine.close()


def other_monitor(directory: Path) -> Path:
    return directory / "mon.sock"


def test_events_wait_for_a_client_that_says_something(two_monitors: TestMachine) -> None:
    """A library that has sent `qmp_capabilities` takes whatever comes next for the answer."""
    other = connect(other_monitor(two_monitors.directory))
    assert other.value("stop") == {}
    connect(two_monitors.qmp_path).close()  # a look whether anybody is there takes no event away
    client = connect(two_monitors.qmp_path)
    assert other.ask("cont")["event"] == "STOP"
    assert [other.message() for _ in range(2)][1] == {"return": {}}
    assert not select.select([client.socket], [], [], 0)[0]
    client.send(b'{"execute":"qmp_capabilities"}{"execute":"query-status"}')
    assert client.message() == {"return": {}}
    assert [client.message()["event"] for _ in range(2)] == ["STOP", "RESUME"]
    assert client.message()["return"]["running"] is True
    client.close()
    other.close()


def test_two_monitors_hear_of_every_event(two_monitors: TestMachine) -> None:
    first, second = two_monitors.qmp(), connect(other_monitor(two_monitors.directory))
    assert second.value("qmp_capabilities") == {}
    assert first.ask("stop")["event"] == "STOP"
    assert second.message()["event"] == "STOP"
    second.send(b'{"execute":"quit"}')
    assert [second.message() for _ in range(2)][1]["event"] == "SHUTDOWN"
    assert [first.message() for _ in range(2)][1]["event"] == "SHUTDOWN"
    assert two_monitors.wait()[0] == 0
    assert not other_monitor(two_monitors.directory).exists()
    first.close()
    second.close()


def test_a_monitor_on_tcp_works(tmp_path: Path) -> None:
    probe = socket.create_server(("127.0.0.1", 0))
    port = probe.getsockname()[1]
    probe.close()
    machine = TestMachine(tmp_path, "-serial", "pty", "-qmp", f"tcp:127.0.0.1:{port},server,nowait", monitor=False)
    client = RawQmp(("127.0.0.1", port))
    assert "QMP" in client.message()
    assert client.value("query-status")["running"] is True
    client.close()
    machine.close()


def test_a_vm_without_a_monitor_is_a_vm(tmp_path: Path) -> None:
    machine = TestMachine(tmp_path, "-serial", "pty", monitor=False)
    machine.drive("inb 0x3fd")
    machine.close()


def test_the_socket_of_a_killed_vm_does_not_block_the_next(tmp_path: Path) -> None:
    machine = TestMachine(tmp_path, "-serial", "pty")
    machine.process.kill()
    machine.close()
    assert machine.qmp_path.exists()
    machine = TestMachine(tmp_path, "-serial", "pty")
    assert alive(machine)
    machine.close()


def test_a_socket_in_use_is_left_alone(machine: TestMachine, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="another process serves this socket"):
        TestMachine(tmp_path, "-serial", "pty")
    assert alive(machine)


def test_a_file_in_the_sockets_place_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "qmp.sock").write_text("precious")
    with pytest.raises(AssertionError, match="is not a socket"):
        TestMachine(tmp_path, "-serial", "pty")
    assert (tmp_path / "qmp.sock").read_text() == "precious"
