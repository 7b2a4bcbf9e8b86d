"""The far end of a guest's serial port: read until something is said, send commands, get their output and status."""

from __future__ import annotations

import os
import re
import select
from dataclasses import dataclass

from tests.deadlines import Deadline

CHUNK = 65536
TAIL = 4000  # characters of the console shown when an expectation fails


class ConsoleError(AssertionError):
    """The guest did not say what was expected; the message ends with what it said last."""


@dataclass(frozen=True)
class Result:
    """A guest command's exit status and output."""

    status: int
    output: str


class Console:
    """Owns the descriptors `read_fd` and `write_fd` (which may be one)."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._position = 0  # what `wait_for` has consumed
        self._commands = 0
        self.text = ""
        self.at_end = False

    def wait_for(self, pattern: str, seconds: float = 60.0) -> re.Match[str]:
        """Wait until `pattern` (multi-line) appears after the last match; ConsoleError at the deadline or the end."""
        deadline = Deadline(seconds)
        compiled = re.compile(pattern, re.MULTILINE)
        while True:
            match = compiled.search(self.text, self._position)
            if match:
                self._position = match.end()
                return match
            if self.at_end:
                raise ConsoleError(f"the console ended before {pattern!r}:\n{self.text[-TAIL:]}")
            if not self._read(deadline.left()):
                raise ConsoleError(f"no {pattern!r} within {deadline.seconds:g} s:\n{self.text[-TAIL:]}")

    def run(self, command: str, seconds: float = 60.0) -> Result:
        """Run a shell command in a guest whose console takes commands."""
        self._commands += 1
        start = self._position
        # The quotes keep the command line itself from matching, should the terminal echo it.
        self.send(f"{{ {command}\n}} </dev/null 2>&1; printf '\\n@''@%d:%d@\\n' {self._commands} $?\n")
        match = self.wait_for(rf"^@@{self._commands}:(\d+)@$", seconds)
        return Result(int(match.group(1)), self.text[start : match.start()].strip())

    def check(self, command: str, seconds: float = 60.0) -> str:
        """Run a command that must succeed; returns its output."""
        result = self.run(command, seconds)
        if result.status != 0:
            raise ConsoleError(f"{command!r} failed with {result.status}:\n{result.output[-TAIL:]}")
        return result.output

    def send(self, text: str) -> None:
        data = text.encode()
        while data:
            data = data[os.write(self._write_fd, data) :]

    def read_to_end(self, seconds: float = 60.0) -> str:
        """Everything until the other side closes."""
        deadline = Deadline(seconds)
        while not self.at_end:
            if not self._read(deadline.left()):
                raise ConsoleError(f"the console is still open after {deadline.seconds:g} s:\n{self.text[-TAIL:]}")
        return self.text

    def is_silent(self, seconds: float) -> bool:
        """True when nothing arrives for `seconds` (not scaled)."""
        return not self._read(seconds)

    def close(self) -> None:
        for descriptor in {self._read_fd, self._write_fd}:
            os.close(descriptor)

    def _read(self, seconds: float) -> bool:
        """Take what has arrived; False when nothing does in time."""
        poll = select.poll()
        poll.register(self._read_fd, select.POLLIN)
        if not poll.poll(seconds * 1000):
            return False
        try:
            data = os.read(self._read_fd, CHUNK)
        except OSError:  # a pty whose other side is gone
            data = b""
        self.at_end = not data
        self.text += data.decode("utf-8", "replace").replace("\r", "")
        return True
