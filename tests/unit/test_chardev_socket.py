"""A serial port whose socket is a client: it connects to whoever listens, and again when that one was restarted."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from tests.deadlines import Deadline
from vmm_core import sockets
from vmm_core.chardev import socket as chardev_socket
from vmm_core.chardev.socket import SocketChardev
from vmm_core.config.records import ChardevConfig
from vmm_core.errors import VmmError
from vmm_core.loop import EventLoop
from vmm_core.serial import SerialPort


class FakePort:
    """Takes `room` bytes of input, and remembers where output goes."""

    def __init__(self, room: int = 1 << 20) -> None:
        self.room = room
        self.output = -1
        self.got = b""

    def set_output(self, fd: int) -> None:
        self.output = fd

    def receive(self, data: bytes) -> int:
        taken = data[: self.room]
        self.room -= len(taken)
        self.got += taken
        return len(taken)

    def on_space(self, callback: object) -> None:
        self.space = callback


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[EventLoop]:
    monkeypatch.setattr(chardev_socket, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(chardev_socket, "HANGUP_LIMIT", 0.01)
    loop = EventLoop()
    yield loop
    loop.close()


def listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)
    return listener


def attach(chardev: SocketChardev, port: FakePort) -> None:
    chardev.attach(cast(SerialPort, port))


def run_until(loop: EventLoop, condition: Callable[[], bool]) -> None:
    deadline = Deadline(10)
    while not condition():
        assert deadline.left() > 0
        loop.run_once(0.1)


def test_a_client_connects_again_when_its_server_was_restarted(loop: EventLoop, tmp_path: Path) -> None:
    path = tmp_path / "listener.sock"
    port = FakePort()
    with listen(path) as listener:
        chardev = SocketChardev(ChardevConfig(id="c0", kind="socket", path=str(path)), loop)
        attach(chardev, port)
        first, _ = listener.accept()
        first.sendall(b"one")
        run_until(loop, lambda: port.got == b"one")
    path.unlink()
    first.close()
    run_until(loop, lambda: port.output == -1)
    with listen(path) as listener:
        run_until(loop, lambda: port.output >= 0)
        second, _ = listener.accept()
        second.sendall(b"two")
        run_until(loop, lambda: port.got == b"onetwo")
        os.write(port.output, b"hello")
        assert second.recv(16) == b"hello"
        second.close()
    chardev.close()


def test_a_client_whose_server_is_not_there_is_refused_by_name(loop: EventLoop, tmp_path: Path) -> None:
    with pytest.raises(VmmError, match=r"chardev c0: cannot connect to .*nobody: No such file"):
        SocketChardev(ChardevConfig(id="c0", kind="socket", path=str(tmp_path / "nobody")), loop)


def test_a_client_that_left_unheard_does_not_keep_the_next_one_out(loop: EventLoop, tmp_path: Path) -> None:
    path = tmp_path / "serial.sock"
    config = ChardevConfig(id="c0", kind="socket", path=str(path), server=True, nowait=True)
    chardev = SocketChardev(config, loop)
    port = FakePort(room=0)
    attach(chardev, port)
    first = socket.socket(socket.AF_UNIX)
    first.connect(str(path))
    first.sendall(b"the guest does not listen")
    run_until(loop, lambda: port.output >= 0)
    first.close()
    run_until(loop, lambda: port.output == -1)
    port.room = 100
    second = socket.socket(socket.AF_UNIX)
    second.connect(str(path))
    second.sendall(b"next")
    run_until(loop, lambda: port.got == b"next")
    second.close()
    chardev.close()
    assert not path.exists()


def test_no_free_descriptor_does_not_make_the_loop_spin(
    loop: EventLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "RETRY_SECONDS", 0.2)
    path = tmp_path / "serial.sock"
    config = ChardevConfig(id="c0", kind="socket", path=str(path), server=True, nowait=True)
    chardev = SocketChardev(config, loop)
    port = FakePort()
    attach(chardev, port)
    listener = chardev._listener
    exhausted = Exhausted(listener)
    monkeypatch.setattr(chardev, "_listener", exhausted)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        loop.run_once(1)
        loop.run_once(0.05)
        assert exhausted.refused == 1
        monkeypatch.setattr(chardev, "_listener", listener)
        run_until(loop, lambda: port.output >= 0)
    chardev.close()


class Exhausted:
    """A listener in a process that has no descriptor left."""

    def __init__(self, listener: socket.socket | None) -> None:
        assert listener is not None
        self._listener = listener
        self.refused = 0

    def fileno(self) -> int:
        return self._listener.fileno()

    def accept(self) -> None:
        self.refused += 1
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
