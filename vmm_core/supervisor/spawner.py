"""The core's end of the spawner: started with one `posix_spawn` and not waited for; asked for backends any time after.

The process we start, the *zygote*, preloads the backends' code and forks a *keeper*, and another one when that dies.
The zygote's life hangs on ours, the backends' on the keeper's and on ours; the spawner proper is the keeper's child,
and replaced by it when it dies.
"""

from __future__ import annotations

import os
import select
from time import monotonic

from ipc import spawn
from ipc.errors import PeerClosed, WireError
from ipc.fds import close_all
from vmm_core import log
from vmm_core.loop import READ
from vmm_core.supervisor import zygote
from vmm_core.supervisor.backend import STOPPED, BackendProcess, pid_behind, signal_behind, state_of
from vmm_core.supervisor.log_pipe import LogPipe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ipc.spawn import Message, Value
    from vmm_core.loop import EventLoop

SIGTERM, SIGCONT = 15, 18
BIRTH_LIMIT = 2.0  # seconds until somebody looks why a backend is not born
LEAVE_LIMIT, TERM_LIMIT = 1.0, 0.5  # seconds for backends to end by themselves, and after SIGTERM


class Spawner:
    """Methods are for the event loop's thread. `close` ends everything that was started.

    A `held` one is started, but begins only on `release`: it takes a CPU for longer than the core's own start does.
    `seccomp` is about zygote, keeper and spawner; backends are asked for with or without a filter of their own.
    """

    def __init__(self, loop: EventLoop, kinds: Sequence[str], *, held: bool = False, seccomp: bool = True) -> None:
        self._loop = loop
        self._backends: dict[int, BackendProcess] = {}
        self._next_id = 1
        self.pid = 0  # of the spawner proper, once it is ready
        self.keeper_pid = 0
        self._keeper_pidfd = self._spawner_pidfd = -1
        self._closing = self._is_watching_births = False
        self._why_none = ""  # there is no spawner and will not be one
        self._log = LogPipe("spawner", loop)
        self._socket, self._lifeline, self.zygote_pid = zygote.start(kinds, self._log.take_end(), held, seccomp)
        self._zygote_pidfd = os.pidfd_open(self.zygote_pid)
        loop.add(self._zygote_pidfd, READ, self._zygote_ended)
        loop.add(self._socket.fileno(), READ, self._readable)

    def release(self) -> None:
        """Let a held spawner begin; the kernel allows it even to a core that may start nothing any more. Once."""
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
            reason = self._ask(message, list(all_fds.values()))
        finally:
            close_all(ends.values())
        if reason:
            self._loop.call_soon(lambda: self._fail(identity, reason))
        elif not self._is_watching_births:
            self._is_watching_births = True
            self._loop.call_later(BIRTH_LIMIT, self._look_after_births)
        return backend

    def _ask(self, message: Message, fds: list[int]) -> str:
        """Send a message; returns why it cannot be sent."""
        if self._why_none:
            return self._why_none
        try:
            spawn.send(self._socket, message, fds)
        except (WireError, ValueError, OSError) as error:
            return f"the spawner cannot be asked: {error}"
        return ""

    def backends(self) -> list[BackendProcess]:
        """Those that run, or are about to."""
        self._backends = {identity: each for identity, each in self._backends.items() if not each.end_reason}
        return list(self._backends.values())

    def close(self) -> None:
        """End all backends, then the spawner. Close their sockets before: that lets them end by themselves."""
        self._closing = True
        self._wait_for_ends(LEAVE_LIMIT)
        for backend in self.backends():
            backend.signal(SIGTERM)
        self._wait_for_ends(TERM_LIMIT)
        for backend in self.backends():
            log.warn(f"{backend.name}: did not end in time and is killed")
            backend.stop()
        os.close(self._lifeline)  # the kernel kills what is left
        self._zygote_ended(0)
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
        spawner_pidfd = fds.pop(1)
        if generation:
            log.error("the spawner died and was replaced; running backends are not affected")
            self._fail_waiting("the spawner died")
        else:
            self._keeper_ended(0)  # that of the one before, in case its own news has not been looked at yet
            self._keeper_pidfd = fds.pop(0)
            self.keeper_pid = pid_behind(self._keeper_pidfd)
            self._loop.add(self._keeper_pidfd, READ, self._keeper_ended)
        close_all((self._spawner_pidfd,))
        self._spawner_pidfd = spawner_pidfd
        self.pid = pid_behind(spawner_pidfd)

    def _backend_exited(self, namespace_pid: int, status: int) -> None:
        for identity, backend in list(self._backends.items()):
            if backend.namespace_pid == namespace_pid:
                del self._backends[identity]
                backend.exited(status)

    # What goes wrong.

    def _fail(self, identity: int, reason: str) -> None:
        backend = self._backends.pop(identity, None)
        if backend is not None:
            backend.hopeless = bool(self._why_none)
            backend.failed(reason)

    def _fail_waiting(self, reason: str) -> None:
        for identity, backend in list(self._backends.items()):
            if not backend.namespace_pid:
                self._fail(identity, reason)

    def _look_after_births(self) -> None:
        """Helpers that somebody stopped start nobody."""
        self._is_watching_births = any(not backend.namespace_pid for backend in self.backends())
        if not self._is_watching_births:
            return
        self._loop.call_later(BIRTH_LIMIT, self._look_after_births)
        for name, pid, pidfd in (
            ("zygote", self.zygote_pid, self._zygote_pidfd),
            ("keeper", self.keeper_pid, self._keeper_pidfd),
            ("spawner", self.pid, self._spawner_pidfd),
        ):
            if pidfd >= 0 and state_of(pid) in STOPPED:
                log.error(f"the {name} is stopped, and a backend waits: it is continued")
                signal_behind(pidfd, SIGCONT)

    def _keeper_ended(self, _events: int) -> None:
        """The kernel has ended everybody in its namespace with it; the zygote makes another. Idempotent."""
        if self._keeper_pidfd < 0:
            return
        self._bury_keeper()
        if self._zygote_pidfd < 0:
            self._lost()
            return
        log.error("the keeper of the backends died, and with it all of them; another one is made")
        self._fail_waiting("the keeper died")
        for backend in self.backends():
            backend.orphaned()

    def _bury_keeper(self) -> None:
        self._loop.remove(self._keeper_pidfd)
        try:
            os.waitid(os.P_PIDFD, self._keeper_pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            pass  # it is the zygote's, as long as that lives
        close_all((self._keeper_pidfd, self._spawner_pidfd))
        self._keeper_pidfd = self._spawner_pidfd = -1
        self.pid = self.keeper_pid = 0

    def _zygote_ended(self, _events: int) -> None:
        """Nobody makes another keeper: without one there is no spawner, with one there is until it dies. Idempotent."""
        if self._zygote_pidfd < 0:
            return
        self._loop.remove(self._zygote_pidfd)
        os.close(self._zygote_pidfd)
        self._zygote_pidfd = -1
        os.waitpid(self.zygote_pid, 0)
        self.zygote_pid = 0
        if self._keeper_pidfd < 0:
            self._lost()
        elif not self._closing:
            log.error("the zygote died: should the keeper of the backends die, too, it cannot be replaced")

    def _lost(self) -> None:
        """There is no spawner any more, and no backend: the kernel has ended them. Idempotent."""
        if self._why_none:
            return
        said = f": {self._log.last_lines[-1]}" if self._log.last_lines else ""
        self._why_none = f"there is no spawner{said}"
        self._loop.remove(self._socket.fileno())
        self._socket.close()
        if self._keeper_pidfd >= 0:
            self._bury_keeper()
        self._log.close()
        self._fail_waiting(self._why_none)
        for backend in self.backends():
            backend.orphaned()


def _readable_within(fds: Sequence[int], seconds: float) -> None:
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    poller.poll(seconds * 1000)
