"""A rolling upgrade as the two backends see it: at any moment one of them has the rings, and never both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ipc import vhost_user as wire
from ipc.errors import WireError
from tests.wire.fake_backend import PROTOCOL, FakeBackend
from tests.wire.frontend_rig import Rig
from tests.wire.test_frontend_recovery import Supervisor
from vmm_core.vhost import ringset

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipc.connection import Frame

STOPPED_AT = 17  # as the fake answers GET_VRING_BASE


def switched(switch: Callable[[], None]) -> None:
    """Nobody objects."""
    switch()


def refused(_switch: Callable[[], None]) -> None:
    raise WireError("it ended meanwhile")


def test_no_ring_of_the_new_one_is_enabled_before_it_is_the_backend(
    rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]
) -> None:
    """Else what fails at the second ring would send the first one back while it is served."""
    rig = rigs()
    first, second = fakes(), fakes()
    Supervisor(rig)
    rig.attach(first)
    rig.drive(0, 1)

    def look(switch: Callable[[], None]) -> None:
        assert second.names().count("SET_VRING_KICK") == 2
        assert "SET_VRING_ENABLE" not in second.names()
        switch()

    rig.device.replace(second.end, look)
    assert [values for name, values in second.seen if name == "SET_VRING_ENABLE"] == [(0, 1), (1, 1)]
    assert second.seen.count(("SET_VRING_BASE", (0, STOPPED_AT))) == 1


def test_a_refused_change_sends_the_rings_back(rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]) -> None:
    rig = rigs()
    first, second = fakes(), fakes()
    supervisor = Supervisor(rig)
    rig.attach(first)
    rig.drive(0, 1)
    with pytest.raises(WireError, match="ended meanwhile"):
        rig.device.replace(second.end, refused)
    assert first.seen.count(("SET_VRING_BASE", (0, STOPPED_AT))) == 1
    assert "SET_VRING_ENABLE" not in second.names()
    assert (supervisor.lost, rig.broken) == ([], [])


def test_an_old_one_that_is_lost_meanwhile_gets_a_successor_and_the_new_one_nothing(
    rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]
) -> None:
    rig = rigs()
    first, second, third = fakes(), fakes(), fakes()

    def lose_the_old_one(fake: FakeBackend, frame: Frame) -> None:
        rig.device.lose("was killed")
        fake.honest(frame)

    second.answers["SET_VRING_KICK"] = lose_the_old_one
    supervisor = Supervisor(rig, third)
    rig.attach(first)
    rig.drive(0)
    with pytest.raises(WireError):
        rig.device.replace(second.end, switched)
    rig.device.prepare()
    assert "SET_VRING_ENABLE" not in second.names()
    assert third.seen.count(("SET_VRING_BASE", (0, STOPPED_AT))) == 1
    assert ("SET_VRING_ENABLE", (0, 1)) in third.seen
    assert (supervisor.lost, rig.broken) == (["was killed"], [])


def test_a_new_one_that_dies_as_it_begins_to_serve_is_a_loss_like_any_other(
    rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]
) -> None:
    """It may have taken requests already, which its own inflight region tells of."""
    rig = rigs()
    first, second, third = fakes(), fakes(), fakes()
    second.answers["SET_VRING_ENABLE"] = lambda fake, _frame: fake.hang_up()
    supervisor = Supervisor(rig, third)
    rig.attach(first)
    rig.drive(0, 1)
    with pytest.raises(WireError, match="closed the connection"):
        rig.device.replace(second.end, switched)
    rig.device.prepare()
    assert first.names().count("SET_VRING_KICK") == 2
    assert len(supervisor.lost) == 1
    assert ("SET_VRING_BASE", (0, STOPPED_AT)) not in third.seen
    assert "SET_INFLIGHT_FD" in third.names()
    assert "GET_INFLIGHT_FD" not in third.names()
    assert rig.broken == []


@pytest.mark.parametrize("message", ["GET_INFLIGHT_FD", "SET_VRING_KICK"])
def test_a_new_one_that_hangs_does_not_keep_the_driver_waiting_for_long(
    rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend], monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    monkeypatch.setattr(ringset, "BLACKOUT_LIMIT", 0.05)
    rig = rigs(timeout=120)
    first, second = fakes(), fakes()
    second.answers[message] = lambda _fake, _frame: None
    supervisor = Supervisor(rig)
    rig.attach(first)
    rig.drive(0)
    with pytest.raises(WireError):
        rig.device.replace(second.end, switched)
    assert first.names().count("SET_VRING_KICK") == 2
    assert (supervisor.lost, rig.broken) == ([], [])


def test_a_new_one_that_keeps_no_account_of_requests_is_refused_before_any_ring_stops(
    rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]
) -> None:
    """Its own death could not be survived any more."""
    rig = rigs()
    first, second = fakes(), fakes(protocol=PROTOCOL & ~wire.bits(wire.INFLIGHT_SHMFD))
    Supervisor(rig)
    rig.attach(first)
    rig.drive(0)
    with pytest.raises(WireError, match="INFLIGHT_SHMFD"):
        rig.device.replace(second.end, switched)
    assert "GET_VRING_BASE" not in first.names()
    assert rig.device.is_served


def test_an_old_one_that_stops_in_the_middle_of_stopping_is_lost(
    rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]
) -> None:
    rig = rigs()
    first, second, third = fakes(), fakes(), fakes()
    first.answers["GET_VRING_BASE"] = lambda fake, frame: fake.raw(b"nonsense" * 4)
    supervisor = Supervisor(rig, third)
    rig.attach(first)
    rig.drive(0)
    with pytest.raises(WireError):
        rig.device.replace(second.end, switched)
    rig.device.prepare()
    assert "SET_VRING_KICK" not in second.names()
    assert ("SET_VRING_ENABLE", (0, 1)) in third.seen
    assert len(supervisor.lost) == 1


@pytest.mark.parametrize("end", ["lose", "fail"])
def test_nobody_waits_for_a_new_one_that_hangs_when_the_old_one_is_gone(
    rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend], end: str
) -> None:
    rig = rigs(timeout=120)
    first, second = fakes(), fakes()
    second.answers["SET_VRING_KICK"] = lambda _fake, _frame: getattr(rig.device, end)("was killed")
    Supervisor(rig)
    rig.attach(first)
    rig.drive(0)
    with pytest.raises(WireError):
        rig.device.replace(second.end, switched)
    assert not rig.device.is_served
