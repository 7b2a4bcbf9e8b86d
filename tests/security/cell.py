"""An event loop, a spawner and test backends, driven from a test without sleeping."""

from __future__ import annotations

import os
import select
import socket
from time import monotonic
from typing import TYPE_CHECKING

from vmm_core.loop import EventLoop
from vmm_core.supervisor.spawner import Spawner

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm_core.supervisor.backend import BackendProcess

    Options = dict[str, str | int | bool | None]

ECHO = "tests.security.echo_backend"
LIMIT = 20.0  # seconds for anything that is going to happen at all


class Peer:
    """A started backend and the test's end of its socket."""

    def __init__(self, process: BackendProcess, sock: socket.socket, cell: Cell) -> None:
        self.process = process
        self._socket = sock
        self._cell = cell

    def say(self, line: str) -> None:
        self._socket.send(line.encode() + b"\n")

    def hear(self) -> str:
        """Its next message; empty when it has closed its end."""
        self._cell.until(lambda: bool(select.select([self._socket], [], [], 0)[0]), self._socket.fileno())
        try:
            return self._socket.recv(65536).decode().rstrip("\n")
        except ConnectionResetError:
            return ""

    def ask(self, line: str) -> str:
        self.say(line)
        return self.hear()

    def ended(self) -> BackendProcess:
        """Wait for its end."""
        self._cell.until(lambda: bool(self.process.end_reason))
        return self.process

    def take_socket(self) -> socket.socket:
        """The test's end, for tests that speak another protocol; closing it is theirs."""
        return socket.socket(fileno=os.dup(self._socket.fileno()))

    def hang_up(self) -> None:
        self._socket.close()


class Cell:
    """`start` backends of one kind; `close` when done."""

    def __init__(self, kind: str = ECHO, *, seccomp: bool = True, strict: bool = False) -> None:
        self.loop = EventLoop()
        self.spawner = Spawner(self.loop, [kind], seccomp=seccomp)
        self.ended: list[BackendProcess] = []
        self._kind = kind
        self._seccomp = seccomp
        self._strict = strict
        self._peers: list[Peer] = []

    def start(self, name: str = "echo", options: Options | None = None, more_fds: dict[str, int] | None = None) -> Peer:
        """A backend that may not run yet."""
        ours, theirs = socket.socketpair()
        with theirs:
            fds = {"vhost": theirs.fileno(), **(more_fds or {})}
            process = self.spawner.start_backend(
                self._kind,
                name,
                fds,
                options or {},
                seccomp=self._seccomp,
                on_end=self.ended.append,
                renewed=self._strict,
                strict=self._strict,
            )
        peer = Peer(process, ours, self)
        self._peers.append(peer)
        return peer

    def ready(self, name: str = "echo", options: Options | None = None) -> Peer:
        """A backend that is sandboxed and serves."""
        peer = self.start(name, options)
        assert peer.hear().startswith("ready"), peer.process.last_lines
        self.until(lambda: peer.process.confined and peer.process.pid > 0)
        return peer

    def until(self, condition: Callable[[], bool], fd: int = -1) -> None:
        """Run the loop until `condition`, which is looked at after every event and whenever `fd` is readable."""
        deadline = monotonic() + LIMIT
        if fd >= 0:
            self.loop.add(fd, select.EPOLLIN, lambda _events: None)
        try:
            while not condition():
                assert monotonic() < deadline, "nothing happened"
                self.loop.run_once(1.0)
        finally:
            if fd >= 0:
                self.loop.remove(fd)

    def close(self) -> None:
        for peer in self._peers:
            peer.hang_up()
        self.spawner.close()
        self.loop.close()


def gone_within(pidfds: list[int], seconds: float) -> bool:
    """Whether all these processes end within `seconds`."""
    deadline = monotonic() + seconds
    for pidfd in pidfds:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        if not poller.poll(max(0.0, deadline - monotonic()) * 1000):
            return False
    return True


def open_descriptors() -> list[str]:
    """What this process has open, by what it is rather than by number."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}").split(":")[0])
        except OSError:
            continue  # the listing's own
    return sorted(found)
