"""The core's end of the spawner: started with one `posix_spawn` and not waited for; asked for backends any time after.

The process we start preloads the backends' code, leaves a *keeper* behind and ends. The keeper's life hangs on ours,
the backends' on the keeper's and on ours; the spawner proper is the keeper's child, and replaced by it when it dies.
"""

from __future__ import annotations

import fcntl
import os
import select
import sys
from time import monotonic

from ipc import spawn
from ipc.confine._seccomp import lib
from ipc.errors import PeerClosed, WireError
from ipc.fds import close_all
from vmm_core import log
from vmm_core.affinity import ThisCpu
from vmm_core.loop import READ
from vmm_core.supervisor.backend import STOPPED, BackendProcess, pid_behind, state_of
from vmm_core.supervisor.log_pipe import LogPipe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable, Mapping, Sequence

    from ipc.spawn import Message, Value
    from vmm_core.loop import EventLoop

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# What `python -m` would do, without `site`: it reads every .pth file of the environment, 2 ms that nobody needs.
PROGRAM = """import sys
sys.path[:0] = {paths!r}
from backends.runtime.spawner import main
sys.exit(main(3, 4, {kinds!r}, {seccomp!r}))
"""
# A held program waits for a line on its lifeline, or goes when that ends.
HELD = ["/bin/sh", "-c", 'read -r _ <&4 && exec "$0" "$@"']
# Neither names nor numbers of the core's environment are any of a backend's business. One malloc arena: less memory.
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MALLOC_ARENA_MAX": "1"}
SIGTERM = 15
SIGKILL = 9
BIRTH_LIMIT = 2.0  # seconds until somebody looks why a backend is not born
LEAVE_LIMIT, TERM_LIMIT = 1.0, 0.5  # seconds for backends to end by themselves, and after SIGTERM


class Spawner:
    """Methods are for the event loop's thread. `close` ends everything that was started.

    A `held` one is started, but begins only on `release`: it takes a CPU for longer than the core's own start does.
    `seccomp` is about keeper and spawner; backends are asked for with or without a filter of their own.
    """

    def __init__(self, loop: EventLoop, kinds: Sequence[str], *, held: bool = False, seccomp: bool = True) -> None:
        self._loop = loop
        self._backends: dict[int, BackendProcess] = {}
        self._next_id = 1
        self.pid = 0  # of the spawner proper, once it is ready
        self.keeper_pid = 0
        self._keeper_pidfd = self._spawner_pidfd = -1
        self._log = LogPipe("spawner", loop)
        self._socket, self._lifeline, starter = _start(kinds, self._log.take_end(), held, seccomp)
        self._starter_pid, self._starter_pidfd = starter, os.pidfd_open(starter)
        loop.add(self._starter_pidfd, READ, self._starter_ended)
        loop.add(self._socket.fileno(), READ, self._readable)

    def release(self) -> None:
        """Let a held spawner begin; the kernel allows it even to a core that may start nothing any more."""
        try:
            os.write(self._lifeline, b"\n")
        except OSError:
            pass  # it has ended, and its socket says so

    def start_backend(
        self,
        kind: str,
        name: str,
        fds: Mapping[str, int],
        options: Mapping[str, Value],
        *,
        seccomp: bool,
        on_end: Callable[[BackendProcess], None],
        renewed: bool = False,
        strict: bool = False,
        command: str = "",
    ) -> BackendProcess:
        """Ask for a backend; returns at once. `fds` stay the caller's. `renewed`: with its code loaded from disk, by
        the Python `command` of another installation if there is one.
        `strict`: with the whole sandbox or not at all.

        `on_end` is called once, when it has ended or could not be started; never before this returns.
        """
        backend = BackendProcess(name, self._loop, on_end)
        identity, self._next_id = self._next_id, self._next_id + 1
        self.backends()  # forgets those that ended without a word
        self._backends[identity] = backend
        ends = backend.take_ends()
        all_fds = {**fds, **ends}
        message: Message = {"op": "start", "id": identity, "kind": kind, "name": name, "seccomp": seccomp}
        message.update({"renewed": renewed, "strict": strict, "command": command})
        message.update({f"fd.{what}": index for index, what in enumerate(all_fds)})
        message.update({f"option.{key}": value for key, value in options.items()})
        try:
            if self._socket.fileno() < 0:
                raise WireError("its keeper is gone, who alone could start another")
            spawn.send(self._socket, message, list(all_fds.values()))
        except (WireError, ValueError, OSError) as error:
            reason = f"the spawner cannot be asked: {error}"
            self._loop.call_soon(lambda: self._fail(identity, reason))
        finally:
            close_all(ends.values())
        self._loop.call_later(BIRTH_LIMIT, lambda: self._look_after(backend))
        return backend

    @property
    def settled(self) -> bool:
        """Whether the keeper stands and the process that made it has ended."""
        return self._keeper_pidfd >= 0 and self._starter_pidfd < 0

    def backends(self) -> list[BackendProcess]:
        """Those that run, or are about to."""
        self._backends = {identity: each for identity, each in self._backends.items() if not each.end_reason}
        return list(self._backends.values())

    def close(self) -> None:
        """End all backends, then the spawner. Close their sockets before: that lets them end by themselves."""
        self._wait_for_ends(LEAVE_LIMIT)
        for backend in self.backends():
            backend.signal(SIGTERM)
        self._wait_for_ends(TERM_LIMIT)
        for backend in self.backends():
            log.warn(f"{backend.name}: did not end in time and is killed")
            backend.stop()
        os.close(self._lifeline)  # what is left dies with the keeper
        self._starter_ended(0)
        if self._keeper_pidfd >= 0:
            _readable_within([self._keeper_pidfd], TERM_LIMIT)
        self._lost()

    def _wait_for_ends(self, limit: float) -> None:
        deadline = monotonic() + limit
        while (left := deadline - monotonic()) > 0 and any(backend.pidfd >= 0 for backend in self.backends()):
            _readable_within([self._socket.fileno()], left)
            if not self._receive():
                return

    # What the spawner says.

    def _readable(self, _events: int) -> None:
        self._receive()

    def _receive(self) -> bool:
        """Deal with one packet; False when there will be no more."""
        try:
            received = spawn.receive(self._socket)
        except WireError as error:
            if not isinstance(error, PeerClosed):
                log.error(f"spawner: {error}")
            self._lost()
            return False
        if received is not None:
            message, fds = received
            try:
                self._obey(message, fds)
            except (KeyError, IndexError, TypeError, ValueError, OSError) as error:
                log.error(f"spawner: bad message {message.get('op')!r}: {type(error).__name__} {error}")
            finally:
                close_all(fds)
        return True

    def _obey(self, message: Message, fds: list[int]) -> None:
        """Act on a message; descriptors left in `fds` are closed by the caller."""
        what = message["op"]
        if what == "ready":
            self._spawner_ready(int(message["generation"] or 0), fds)
        elif what == "exited":
            self._backend_exited(int(message["pid"] or 0), int(message["status"] or 0))
        elif what == "failed":
            self._fail(int(message["id"] or 0), str(message["reason"])[:200])
        else:
            backend = self._backends.get(int(message["id"] or 0))
            if backend is not None and what == "started":
                backend.started(int(message["pid"] or 0), fds.pop())
            elif backend is not None and what == "confined":
                missing = [str(word)[:200] for word in spawn.section(message, "missing").values()]
                backend.sandboxed(missing, int(message.get("landlock") or 0))

    def _spawner_ready(self, generation: int, fds: list[int]) -> None:
        close_all((self._spawner_pidfd,))
        self._spawner_pidfd = fds.pop(1)
        self.pid = pid_behind(self._spawner_pidfd)
        if self._keeper_pidfd < 0:
            self._keeper_pidfd = fds.pop(0)
            self.keeper_pid = pid_behind(self._keeper_pidfd)
            self._loop.add(self._keeper_pidfd, READ, lambda _events: self._lost())
        if generation:
            log.error("the spawner died and was replaced; running backends are not affected")
            self._fail_waiting("the spawner died")

    def _backend_exited(self, namespace_pid: int, status: int) -> None:
        for identity, backend in list(self._backends.items()):
            if backend.namespace_pid == namespace_pid:
                del self._backends[identity]
                backend.exited(status)

    # What goes wrong.

    def _fail(self, identity: int, reason: str) -> None:
        backend = self._backends.pop(identity, None)
        if backend is not None:
            backend.failed(reason)

    def _fail_waiting(self, reason: str) -> None:
        for identity, backend in list(self._backends.items()):
            if not backend.namespace_pid:
                self._fail(identity, reason)

    def _look_after(self, backend: BackendProcess) -> None:
        """A spawner that somebody stopped starts nobody; once it is dead, the keeper replaces it."""
        if backend.namespace_pid or self._spawner_pidfd < 0 or state_of(self.pid) not in STOPPED:
            return
        import signal

        log.error("the spawner is stopped and is killed")
        try:
            signal.pidfd_send_signal(self._spawner_pidfd, SIGKILL)
        except ProcessLookupError:
            pass

    def _starter_ended(self, _events: int) -> None:
        """It ends when its keeper stands; any other end means that there is none. Idempotent."""
        if self._starter_pidfd < 0:
            return
        self._loop.remove(self._starter_pidfd)
        os.close(self._starter_pidfd)
        self._starter_pidfd = -1
        _pid, status = os.waitpid(self._starter_pid, 0)
        if status:
            self._lost()

    def _lost(self) -> None:
        """There is no keeper (any more), and so no backend: the kernel has ended them. Idempotent."""
        if self._socket.fileno() < 0:
            return
        self._loop.remove(self._socket.fileno())
        self._loop.remove(self._keeper_pidfd)
        self._socket.close()
        self._bury_keeper()
        close_all((self._spawner_pidfd,))
        self._spawner_pidfd = -1
        self._log.close()
        self.pid = self.keeper_pid = 0
        said = f": {self._log.last_lines[-1]}" if self._log.last_lines else ""
        self._fail_waiting(f"there is no spawner{said}")

    def _bury_keeper(self) -> None:
        if self._keeper_pidfd < 0:
            return
        try:
            os.waitid(os.P_PIDFD, self._keeper_pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            pass  # somebody else adopted it
        os.close(self._keeper_pidfd)


def _readable_within(fds: Sequence[int], seconds: float) -> None:
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    poller.poll(seconds * 1000)


def _start(kinds: Sequence[str], log_end: int, held: bool, seccomp: bool) -> tuple[socket, int, int]:
    """Start the program; returns (our end of its socket, the keeper's lifeline, its pid). Takes `log_end` over."""
    lib.sc_adopt_orphans()  # the keeper is to be seen as ours, by ps and by whoever adds up what this VM uses
    ours, theirs = spawn.channel()
    lifeline, our_lifeline = os.pipe2(os.O_CLOEXEC)
    # Out of the way of the numbers that they are to have in the child.
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (log_end, theirs.fileno(), lifeline)]
    paths = [ROOT, *(path for path in sys.path if path.endswith("-packages"))]
    actions = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)]
    wanted = ((high[0], 1), (high[0], 2), (high[1], 3), (high[2], 4))
    program = [sys.executable, "-I", "-S", "-c", PROGRAM.format(paths=paths, kinds=list(kinds), seccomp=seccomp)]
    words = HELD + program if held else program
    try:
        with ThisCpu() as cpu:
            pid = os.posix_spawn(
                words[0],
                words,
                ENVIRONMENT,
                file_actions=[*actions, *((os.POSIX_SPAWN_DUP2, source, target) for source, target in wanted)],
                setsid=True,  # a terminal's Ctrl-C and hang-up are for the core to deal with
                setsigmask=[],
            )
        os.sched_setaffinity(pid, cpu.allowed)
    finally:
        close_all([*high, log_end, lifeline])
        theirs.close()
    return ours, our_lifeline, pid
