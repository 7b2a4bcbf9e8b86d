"""A backend that is stopped (SIGSTOP) while somebody waits for its answer, which is when no heartbeat can ask it."""

from __future__ import annotations

import select
import threading
from typing import TYPE_CHECKING

import pytest

from ipc.errors import WireError
from tests.wire.fake_backend import FakeBackend
from tests.wire.test_frontend_recovery import Supervisor
from vmm_core.vhost import user

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipc.connection import Frame
    from tests.wire.frontend_rig import Rig

LONG = 120.0  # seconds for an answer: more than a test may take
WHILE_TOLD = ["GET_FEATURES", "SET_FEATURES", "ADD_MEM_REG", "SET_INFLIGHT_FD", "SET_VRING_KICK", "SET_VRING_ENABLE"]


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user, "LOOK_PERIOD", 0.01)


def stop(fake: FakeBackend, message: str) -> Callable[[], bool]:
    """It is stopped when that message comes, until its session is ended; returns what tells of it."""
    stopped = threading.Event()
    end = select.poll()
    end.register(fake.socket.fileno(), select.POLLRDHUP)

    def hang(_fake: FakeBackend, _frame: Frame) -> None:
        stopped.set()
        end.poll(LONG * 1000)

    fake.answers[message] = hang
    return stopped.is_set


@pytest.mark.parametrize("message", WHILE_TOLD)
def test_a_successor_stopped_while_it_is_told_its_state_is_replaced(
    rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend], message: str
) -> None:
    rig = rigs(timeout=LONG)
    first, second, third = fakes(), fakes(), fakes()
    supervisor = Supervisor(rig, third)
    rig.attach(first)
    rig.drive(0)
    rig.device.attach(second.end, stop(second, message))
    rig.device.prepare()
    assert supervisor.lost == ["the backend did not answer, being stopped"]
    assert third.names().count("SET_VRING_KICK") == 1
    assert rig.broken == []


def test_a_backend_that_is_slow_but_not_stopped_is_waited_for(
    rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]
) -> None:
    """A disk may take seconds for what is in flight, and configuring a ring waits for that."""
    rig = rigs(timeout=LONG)
    fake = fakes()
    looks = threading.Semaphore(0)

    def answer_late(fake: FakeBackend, frame: Frame) -> None:
        for _ in range(5):
            looks.acquire()
        FakeBackend.honest(fake, frame)

    def is_stopped() -> bool:
        looks.release()
        return False

    fake.answers["SET_FEATURES"] = answer_late
    supervisor = Supervisor(rig)
    rig.device.attach(fake.end, is_stopped)
    rig.drive(0)
    assert (supervisor.lost, rig.broken) == ([], [])


def test_one_that_was_stopped_for_a_moment_only_serves_on(
    rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]
) -> None:
    rig = rigs(timeout=LONG)
    fake = fakes()
    seen = iter([True, False, True, False])
    woken = threading.Event()

    def is_stopped() -> bool:
        stopped = next(seen, None)
        if stopped is None:
            woken.set()
        return bool(stopped)

    def answer_late(fake: FakeBackend, frame: Frame) -> None:
        woken.wait(LONG)
        FakeBackend.honest(fake, frame)

    fake.answers["SET_FEATURES"] = answer_late
    supervisor = Supervisor(rig)
    rig.device.attach(fake.end, is_stopped)
    rig.drive(0)
    assert (supervisor.lost, rig.broken) == ([], [])


def test_a_reset_does_not_wait_for_a_stopped_backend_to_drain(
    rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]
) -> None:
    rig = rigs(timeout=LONG)
    first, second = fakes(), fakes()
    supervisor = Supervisor(rig, second)
    rig.device.attach(first.end, stop(first, "GET_VRING_BASE"))
    rig.drive(0)
    rig.device.reset()
    assert len(supervisor.lost) == 1
    rig.drive(0)
    assert rig.broken == []


@pytest.mark.parametrize("message", ["SET_FEATURES", "SET_VRING_KICK"])
def test_a_new_version_that_is_stopped_leaves_the_old_one_serving(
    rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend], message: str
) -> None:
    rig = rigs(timeout=LONG)
    first, second = fakes(), fakes()
    supervisor = Supervisor(rig)
    rig.attach(first)
    rig.drive(0)
    with pytest.raises(WireError, match="stopped"):
        rig.device.replace(second.end, lambda _switch: pytest.fail("it did not succeed"), stop(second, message))
    rig.device.write_config(32, b"\0")
    assert first.names()[-1] == "SET_CONFIG"
    assert (supervisor.lost, rig.broken) == ([], [])
