"""The core's end of the spawner: started with one `posix_spawn` and not waited for; asked for backends later."""

from __future__ import annotations

import os
import sys

from vmm_core import log
from vmm_core.loop import READ
from vmm_core.supervisor.backend import BackendProcess

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping, Sequence

    from vmm_core.loop import EventLoop

PROGRAM = "backends.runtime.spawner"
# What `python -m` would do, without `site`: it reads every .pth file of the environment, 2 ms that nobody needs.
BOOTSTRAP = "import sys; sys.path[:0] = {paths!r}; import runpy; runpy.run_module({program!r}, run_name='__main__')"


class Spawner:
    """Methods are for the event loop's thread. `close` ends the spawner; backends have a life of their own."""

    def __init__(self, loop: EventLoop, kinds: Sequence[str]) -> None:
        self._loop = loop
        self._backends: dict[int, BackendProcess] = {}
        self._next_id = 1
        self._socket_fd, self.pid = _start(kinds)
        self._socket: socket.socket | None = None
        loop.add(self._socket_fd, READ, self._readable)

    def start_backend(
        self,
        kind: str,
        name: str,
        fds: Mapping[str, int],
        options: Mapping[str, object],
        *,
        seccomp: bool,
        on_end: Callable[[BackendProcess], None],
    ) -> BackendProcess:
        """Ask for a backend; returns at once. `fds` stay the caller's. `on_end` is called when it could not be started or died."""
        from ipc import spawn

        backend = BackendProcess(name, self._loop, on_end)
        identity, self._next_id = self._next_id, self._next_id + 1
        self._backends[identity] = backend
        log_end, lifeline = backend.take_ends()
        try:
            message = {"op": "spawn", "id": identity, "kind": kind, "name": name, "options": dict(options), "seccomp": seccomp}
            message["fds"] = [*fds, "log", "lifeline"]
            spawn.send(self._connection(), message, [*fds.values(), log_end, lifeline])
        except OSError as error:
            self._loop.call_soon(lambda: self._fail(identity, f"the spawner is gone: {error.strerror}"))
        finally:
            os.close(log_end)
            os.close(lifeline)
        return backend

    def close(self) -> None:
        """Hang up: the spawner ends at once."""
        self._loop.remove(self._socket_fd)
        if self._socket is not None:
            self._socket.close()
        else:
            os.close(self._socket_fd)

    def _connection(self) -> socket.socket:
        if self._socket is None:
            import socket

            self._socket = socket.socket(fileno=self._socket_fd)
        return self._socket

    def _readable(self, _events: int) -> None:
        from ipc import spawn

        try:
            received = spawn.receive(self._connection())
        except (OSError, spawn.SpawnProtocolError) as error:
            log.error(f"spawner: {error}")
            received = None
        if received is None:
            self._lost()
            return
        message, fds = received
        backend = self._backends.get(message.get("id", 0))
        if backend is None:
            for fd in fds:
                os.close(fd)
        elif message["op"] == "started" and len(fds) == 1:
            backend.started(message["pid"], fds[0])
        elif message["op"] == "failed":
            self._fail(message["id"], str(message.get("reason"))[:200])
        elif message["op"] == "exited":
            del self._backends[message["id"]]
            backend.exited(message["status"])

    def _fail(self, identity: int, reason: str) -> None:
        backend = self._backends.pop(identity, None)
        if backend is not None:
            backend.failed(reason)

    def _lost(self) -> None:
        """Running backends go on; their ends are then known by pidfd alone, without a status."""
        log.error("the spawner ended; running backends are not affected, new ones cannot be started")
        self._loop.remove(self._socket_fd)
        waiting = [identity for identity, backend in self._backends.items() if backend.pid == 0]
        for identity in waiting:
            self._fail(identity, "the spawner ended")
        for backend in self._backends.values():
            backend.orphaned()


def _start(kinds: Sequence[str]) -> tuple[int, int]:
    """Start the spawner; returns (our end of its socket, its pid)."""
    import _socket

    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    paths = [root, *(path for path in sys.path if path.endswith("site-packages"))]
    code = BOOTSTRAP.format(paths=paths, program=PROGRAM)
    child_fd = 3
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-S", "-c", code, str(child_fd), *kinds],
        {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        file_actions=[(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0), (os.POSIX_SPAWN_DUP2, theirs.fileno(), child_fd)],
    )
    theirs.close()
    return ours.detach(), pid
