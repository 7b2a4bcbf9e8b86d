"""When a busy backend is asked whether it lives, on a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from vmm_core.supervisor import heartbeat
from vmm_core.supervisor.heartbeat import PERIOD, Heartbeat

KICK = 7


class Loop:
    """Timers that run when the test says so."""

    def __init__(self) -> None:
        self.watched: dict[int, Callable[[int], None]] = {}
        self.timers: list[Callable[[], None]] = []

    def add(self, fd: int, _events: int, call: Callable[[int], None]) -> None:
        self.watched[fd] = call

    def remove(self, fd: int) -> None:
        self.watched.pop(fd, None)

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        assert seconds == PERIOD
        self.timers.append(call)

    def kick(self) -> None:
        self.watched[KICK](1)

    def second(self) -> None:
        (due,), self.timers = self.timers, []
        due()


class Front:
    """A device that owes `owed`."""

    def __init__(self) -> None:
        self.owed = b""
        self.pings = 0

    def kick_fds(self) -> list[int]:
        return [KICK]

    def outstanding(self) -> bytes:
        return self.owed

    def ping(self, _limit: float) -> None:
        self.pings += 1


@pytest.fixture(autouse=True)
def _threads_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "start_new_thread", lambda call, arguments: call(*arguments))


def made(*, busy: bool = False) -> tuple[Loop, Front]:
    loop, front = Loop(), Front()
    Heartbeat(cast(Any, loop), cast(Any, front), lambda: busy).arm()
    return loop, front


def test_an_idle_device_has_no_timer() -> None:
    loop, _front = made()
    assert (list(loop.watched), loop.timers) == ([KICK], [])
    loop.kick()
    loop.second()  # nothing is owed any more
    assert (list(loop.watched), loop.timers) == ([KICK], [])


def test_who_owes_the_same_for_a_second_is_asked_and_who_moves_on_is_not() -> None:
    loop, front = made()
    loop.kick()
    for owed in (b"one", b"two", b"three"):
        front.owed = owed
        loop.second()
    assert front.pings == 0
    loop.second()
    assert front.pings == 1


def test_who_has_a_command_to_obey_is_not_asked() -> None:
    """It may have to finish the requests of a slow disk first."""
    loop, front = made(busy=True)
    loop.kick()
    front.owed = b"the same"
    for _ in range(3):
        loop.second()
    assert front.pings == 0
