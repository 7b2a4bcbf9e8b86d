"""One backend process as the core sees it: its pid, its log lines, its lifeline, its end."""

from __future__ import annotations

import os

from vmm_core import log
from vmm_core.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm_core.loop import EventLoop

MAX_LINE = 1000  # characters of one log line
LINES_PER_SECOND = 20
KEPT_LINES = 5  # for the message when the backend ends


class BackendProcess:
    """A backend that the spawner was asked for. Ours are the read end of its log and the write end of its lifeline."""

    def __init__(self, name: str, loop: EventLoop, on_end: Callable[[BackendProcess], None]) -> None:
        self.name = name
        self.pid = 0
        self.end_reason = ""  # why it ended, one line; empty while it lives
        self.last_lines: list[str] = []
        self._loop = loop
        self._on_end = on_end
        self._pidfd = -1
        self._status_expected = True
        self._log, self._child_log = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._child_lifeline, self._lifeline = os.pipe2(os.O_CLOEXEC)
        self._partial = b""
        self._lines_left = LINES_PER_SECOND
        loop.add(self._log, READ, self._read_log)

    def take_ends(self) -> tuple[int, int]:
        """The child's (log, lifeline) descriptors; the caller closes them once they are sent."""
        return self._child_log, self._child_lifeline

    def started(self, pid: int, pidfd: int) -> None:
        self.pid, self._pidfd = pid, pidfd
        self._loop.add(pidfd, READ, lambda _events: self._pidfd_ready())

    def exited(self, status: int) -> None:
        """The spawner's word on how it ended: negative for a signal."""
        self._ended(f"killed by {_signal_name(-status)}" if status < 0 else f"exited with status {status}")

    def failed(self, reason: str) -> None:
        """It could not be started."""
        self._ended(f"could not be started: {reason}")

    def orphaned(self) -> None:
        """Nobody will report how it ended; its pidfd still tells that it did."""
        self._status_expected = False

    def stop(self) -> None:
        """Let go of the lifeline: the kernel kills the backend if it still lives."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    def _pidfd_ready(self) -> None:
        """It is dead; the status follows from the spawner, in a packet of its own."""
        self._loop.remove(self._pidfd)
        if not self._status_expected:
            self._ended("ended")

    def _ended(self, reason: str) -> None:
        if self.end_reason:
            return
        self._read_log(0)
        self.end_reason = reason
        self.stop()
        self._loop.remove(self._pidfd)
        self._loop.remove(self._log)
        os.close(self._log)
        if self._pidfd >= 0:
            os.close(self._pidfd)
        self._on_end(self)

    def _read_log(self, _events: int) -> None:
        try:
            data = os.read(self._log, 16384)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove(self._log)
            return
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > MAX_LINE:
            lines.append(self._partial)
            self._partial = b""
        for line in lines:
            self._log_line(line.decode("utf-8", "replace")[:MAX_LINE])

    def _log_line(self, line: str) -> None:
        """A backend may be hostile: what it writes is bounded in length and rate."""
        if not line:
            return
        self.last_lines = [*self.last_lines[1 - KEPT_LINES :], line]
        if self._lines_left == LINES_PER_SECOND:
            self._loop.call_later(1.0, self._refill)
        self._lines_left -= 1
        if self._lines_left >= 0:
            log.warn(f"{self.name}: {line}")

    def _refill(self) -> None:
        if self._lines_left < 0:
            log.warn(f"{self.name}: {-self._lines_left} more lines within a second, not shown")
        self._lines_left = LINES_PER_SECOND


def _signal_name(number: int) -> str:
    import signal  # with its enums it costs 2 ms, too much for the start path

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
