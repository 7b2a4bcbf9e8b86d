"""The log of a process that we do not trust: a flood costs its writer time, not us."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from vmm_core.supervisor.log_pipe import CHUNK, CHUNKS_PER_SECOND, PIPE_CHUNKS, LogPipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Loop:
    """As much of an event loop as a log needs; seconds pass when the test says so."""

    def __init__(self) -> None:
        self.callbacks: dict[int, Callable[[int], None]] = {}
        self._timers: list[Callable[[], None]] = []

    def add(self, fd: int, _events: int, callback: Callable[[int], None]) -> None:
        assert fd not in self.callbacks
        self.callbacks[fd] = callback

    def remove(self, fd: int) -> None:
        self.callbacks.pop(fd, None)

    def call_later(self, _seconds: float, callback: Callable[[], None]) -> None:
        self._timers.append(callback)

    def second(self) -> None:
        timers, self._timers = self._timers, []
        for callback in timers:
            callback()


class Writer:
    """A process and its log."""

    def __init__(self) -> None:
        self.loop = Loop()
        loop: Any = self.loop
        self.log = LogPipe("writer", loop)
        self.end = self.log.take_end()
        os.set_blocking(self.end, False)

    def heard(self) -> bool:
        """Whether what is in the pipe is taken."""
        for callback in list(self.loop.callbacks.values()):
            callback(0)
            return True
        return False

    def flood(self) -> int:
        """Write as long as it is taken; returns how often that was."""
        count = 0
        while self.heard():
            os.write(self.end, b"\n" * CHUNK)
            count += 1
        return count


@pytest.fixture
def writer() -> Iterator[Writer]:
    made = Writer()
    yield made
    made.log.close()
    os.close(made.end)


def test_a_flood_is_taken_in_portions(writer: Writer) -> None:
    for _ in range(3):
        assert writer.flood() == CHUNKS_PER_SECOND
        writer.loop.second()


def test_who_writes_little_is_heard_at_once(writer: Writer) -> None:
    for number in range(3 * CHUNKS_PER_SECOND):
        os.write(writer.end, b"%d\n" % number)
        assert writer.heard()
        assert writer.log.last_lines[-1] == str(number)
        writer.loop.second()


def test_last_words_are_found_behind_a_flood(writer: Writer) -> None:
    writer.flood()
    os.write(writer.end, b"\n" * (CHUNK * (PIPE_CHUNKS - 1) - 100) + b"the reason\n")
    writer.log.close()
    assert writer.log.last_lines == ["the reason"]


def test_a_log_that_ended_while_it_was_not_heard_is_let_go(writer: Writer) -> None:
    writer.flood()
    os.close(writer.end)
    writer.end = os.open("/dev/null", os.O_WRONLY)
    writer.loop.second()
    while writer.heard():
        pass
    writer.loop.second()
    assert not writer.loop.callbacks
