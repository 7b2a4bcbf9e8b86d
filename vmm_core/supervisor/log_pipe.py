"""Standard error of a process that we do not trust, into the log: bounded in length, rate, memory and time."""

from __future__ import annotations

import os

from vmm_core import log
from vmm_core.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm_core.loop import EventLoop

MAX_LINE = 1000  # bytes of one log line
LINES_PER_SECOND = 20
KEPT_LINES = 5  # for the message when the process ends
CHUNK = 16384
CHUNKS_PER_SECOND = 32  # beyond that the writer has to wait: its flood is not to cost us a CPU
PIPE_CHUNKS = 4  # what a pipe holds


class LogPipe:
    """`take_end` gives the writing end, for the process; each line that comes is logged as `NAME: line`."""

    def __init__(self, name: str, loop: EventLoop) -> None:
        self.name = name
        self.last_lines: list[str] = []
        self._loop = loop
        self._read_end, self._write_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._read_end, False)
        self._partial = b""
        self._lines_left = LINES_PER_SECOND
        self._chunks_left = CHUNKS_PER_SECOND
        loop.add(self._read_end, READ, self._readable)

    def take_end(self) -> int:
        """The writing end; the caller closes it once the process has it."""
        end, self._write_end = self._write_end, -1
        return end

    def close(self) -> None:
        """Log what is left, and let go."""
        if self._read_end < 0:
            return
        for _ in range(PIPE_CHUNKS):
            self._read()
        if self._partial:
            self._line(self._partial)
        self._loop.remove(self._read_end)
        os.close(self._read_end)
        self._read_end = -1
        if self._write_end >= 0:
            os.close(self._write_end)

    def _readable(self, _events: int) -> None:
        if not self._read():
            self._loop.remove(self._read_end)  # the process closed its end; it may live on
            return
        if self._chunks_left == CHUNKS_PER_SECOND:
            self._loop.call_later(1.0, self._listen_again)
        self._chunks_left -= 1
        if not self._chunks_left:
            self._loop.remove(self._read_end)

    def _listen_again(self) -> None:
        if not self._chunks_left and self._read_end >= 0:
            self._loop.add(self._read_end, READ, self._readable)
        self._chunks_left = CHUNKS_PER_SECOND

    def _read(self) -> bool:
        """Take one chunk: a flood must not keep the event loop. False at the end."""
        try:
            data = os.read(self._read_end, CHUNK)
        except BlockingIOError:
            return True
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > MAX_LINE:
            lines.append(self._partial)
            self._partial = b""
        for line in lines:
            self._line(line)
        return bool(data)

    def _line(self, line: bytes) -> None:
        text = line[:MAX_LINE].decode("utf-8", "replace").strip()
        if not text:
            return
        self.last_lines = [*self.last_lines[1 - KEPT_LINES :], text]
        if self._lines_left == LINES_PER_SECOND:
            self._loop.call_later(1.0, self._refill)
        self._lines_left -= 1
        if self._lines_left >= 0:
            log.warn(f"{self.name}: {text}")

    def _refill(self) -> None:
        if self._lines_left < 0:
            log.warn(f"{self.name}: {-self._lines_left} more lines within a second, not shown")
        self._lines_left = LINES_PER_SECOND
