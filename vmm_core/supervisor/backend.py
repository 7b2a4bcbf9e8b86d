"""One backend process as the core sees it: its pid, its log lines, its lifeline, its sandbox, its end."""

from __future__ import annotations

import os

from vmm_core import log
from vmm_core.loop import READ
from vmm_core.supervisor.control import ControlChannel
from vmm_core.supervisor.log_pipe import LogPipe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm_core.loop import EventLoop

STOPPED = ("T", "t")
STATUS_LIMIT = 1.0  # seconds from a process's end to the word on how it ended
SIGKILL = 9


class BackendProcess:
    """A backend that the spawner was asked for. Ours are the read end of its log, the write end of its lifeline, and
    our end of its `control` channel.

    `pid` is 0 until it runs, and if it ended before we looked; `confined` says that its sandbox stands, and `missing`
    what the host did not permit of it. `landlock` is the ABI version in force: the kernel shows that nowhere.
    After the end: `exit_status` (negative: the signal; None: nobody knows) and `end_reason`, one line; `hopeless` says
    that another one would not fare better.
    """

    def __init__(self, name: str, loop: EventLoop, on_end: Callable[[BackendProcess], None]) -> None:
        self.name = name
        self.pid = 0
        self.namespace_pid = 0
        self.confined = False
        self.missing: list[str] = []
        self.landlock = 0
        self.exit_status: int | None = None
        self.end_reason = ""
        self.hopeless = False
        self.on_started: Callable[[BackendProcess], None] | None = None  # called when `pid` is known
        self.on_confined: Callable[[], None] | None = None
        self._loop = loop
        self._on_end = on_end
        self._pidfd = -1
        self._is_dead = self._is_orphan = False
        self._log = LogPipe(name, loop)
        self._child_lifeline, self._lifeline = os.pipe2(os.O_CLOEXEC)
        self.control = ControlChannel(name, loop)

    @property
    def last_lines(self) -> list[str]:
        """The last lines it wrote to standard error."""
        return self._log.last_lines

    @property
    def pidfd(self) -> int:
        """Readable when the process has ended; -1 when there is none."""
        return self._pidfd

    def take_ends(self) -> dict[str, int]:
        """The child's descriptors by name; the caller closes them once they are sent."""
        return {"log": self._log.take_end(), "lifeline": self._child_lifeline, "control": self.control.take_end()}

    def started(self, namespace_pid: int, pidfd: int) -> None:
        """It runs; takes `pidfd` over."""
        self.namespace_pid, self._pidfd = namespace_pid, pidfd
        self.pid = pid_behind(pidfd)
        self._loop.add(pidfd, READ, self._pidfd_ready)
        if self.on_started is not None:
            self.on_started(self)

    def sandboxed(self, missing: list[str], landlock: int) -> None:
        """Its sandbox stands, except for `missing`."""
        self.confined, self.missing, self.landlock = True, missing, landlock
        for line in missing:
            log.info(f"{self.name}: sandbox without {line}")
        if self.on_confined is not None:
            self.on_confined()

    def exited(self, status: int) -> None:
        """The spawner's word on how it ended: negative for a signal."""
        self.exit_status = status
        self._ended(f"was killed by {_signal_name(-status)}" if status < 0 else f"exited with status {status}")

    def orphaned(self) -> None:
        """The first process of its namespace is dead: the kernel kills it, and there is nobody to tell how it ended."""
        self._is_orphan = True
        if self._is_dead:
            self._ended_as_orphan()

    def failed(self, reason: str) -> None:
        """It could not be started."""
        self._ended(f"could not be started: {reason}")

    def signal(self, number: int) -> None:
        """Send a signal, unless it has ended: a pidfd never means another process."""
        if self._pidfd >= 0:
            signal_behind(self._pidfd, number)

    def is_stopped(self) -> bool:
        """Whether it runs no more, but has not ended: SIGSTOP, a debugger. From any thread."""
        return state_of(self.pid) in STOPPED

    def stop(self) -> None:
        """Let go of the lifeline: the kernel kills the backend if it still lives."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    def _pidfd_ready(self, _events: int) -> None:
        """It is dead; how, follows from the spawner or the keeper in a packet of its own."""
        self._loop.remove(self._pidfd)
        self._is_dead = True
        if self._is_orphan:
            self._ended_as_orphan()
        else:
            self._loop.call_later(STATUS_LIMIT, lambda: self._ended("ended, nobody knows how"))

    def _ended_as_orphan(self) -> None:
        """By the kernel, or, where there is no namespace, in its own way and as a child that we have adopted."""
        status = -SIGKILL
        try:
            end = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
            if end is not None:
                status = end.si_status if end.si_code == os.CLD_EXITED else -end.si_status
        except ChildProcessError:
            pass
        self.exited(status)

    def _ended(self, reason: str) -> None:
        if self.end_reason:
            return
        self.end_reason = reason
        self._log.close()
        self.control.close()
        self.stop()
        self._loop.remove(self._pidfd)
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        self._on_end(self)


def pid_behind(pidfd: int) -> int:
    """The number, in our own namespace, of the process behind `pidfd`; 0 when it is gone or there is no /proc."""
    try:
        with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as info:
            for line in info:
                if line.startswith("Pid:"):
                    return max(0, int(line[4:]))
    except OSError:
        pass
    return 0


def signal_behind(pidfd: int, number: int) -> None:
    """Send a signal to the process behind `pidfd`, unless it has ended."""
    import signal  # with its enums it costs 2 ms, too much for the start path

    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        pass


def state_of(pid: int) -> str:
    """The letter by which the kernel tells what a process does; empty when it is gone, or there is no /proc."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def _signal_name(number: int) -> str:
    import signal  # with its enums it costs 2 ms, too much for the start path

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
