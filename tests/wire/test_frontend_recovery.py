"""A supervised front-end: whatever a backend was doing when it was lost, the next one is told all that it must know."""

from __future__ import annotations

import os
import struct
import threading
from typing import TYPE_CHECKING

import pytest

from ipc import vhost_user as wire
from tests.wire.fake_backend import FEATURES, PROTOCOL, FakeBackend
from tests.wire.frontend_rig import Rig
from vmm_core.virtio.device import DeviceBroken

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipc.connection import Frame

PACKED = 1 << 32 | 1 << 34


class Supervisor:
    """Attaches `successors` one after the other, each when its predecessor is lost."""

    def __init__(self, rig: Rig, *successors: FakeBackend) -> None:
        self._rig = rig
        self._successors = list(successors)
        self.lost: list[str] = []
        self.unfit: list[str] = []
        self.ready = 0
        self.arrived = threading.Event()
        rig.device.supervise(
            on_lost=self._lost, on_unfit=self.unfit.append, on_ready=self._ready, on_active=lambda: None
        )

    def _lost(self, reason: str) -> None:
        self.lost.append(reason)
        if self._successors:
            self._rig.attach(self._successors.pop(0))

    def _ready(self) -> None:
        self.ready += 1
        self.arrived.set()


def lose(rig: Rig, fake: FakeBackend) -> None:
    """The backend hangs up and the main loop notices."""
    fake.hang_up()
    while not rig.broken and rig.device._link.established() is not None:
        rig.device.on_channel_readable()


def test_the_next_backend_is_told_everything(rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]) -> None:
    rig = rigs(dirty_log=True)
    first, second = fakes(), fakes()
    supervisor = Supervisor(rig, second)
    rig.attach(first)
    rig.drive(0, 1)
    rig.device.write_config(32, b"\0")
    lose(rig, first)
    rig.device.prepare()
    told = [entry for entry in second.seen if entry[0].startswith("SET") or entry[0] == "ADD_MEM_REG"]
    assert sorted(told) == sorted(entry for entry in first.seen if entry in told)  # in the same words
    names = second.names()
    assert names.count("ADD_MEM_REG") == 2
    assert names.count("SET_VRING_KICK") == names.count("SET_VRING_ENABLE") == 2
    assert "SET_LOG_BASE" in names
    assert "GET_INFLIGHT_FD" not in names  # it gets the first one's
    assert names.index("SET_FEATURES") < names.index("SET_INFLIGHT_FD") < names.index("SET_VRING_KICK")
    assert ("SET_CONFIG", (32, 1, 0, b"\0")) in second.seen
    assert (supervisor.ready, rig.broken) == (2, [])


def test_the_late_news_of_a_death_does_not_end_the_successor(
    rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]
) -> None:
    """The process's end is seen before its socket's: the successor waits already when the latter comes."""
    rig = rigs()
    first, second = fakes(), fakes()
    supervisor = Supervisor(rig, second)
    rig.attach(first)
    rig.drive(0)
    first.hang_up()
    rig.device.lose("was killed by SIGKILL")
    rig.device.on_channel_readable()
    rig.device.prepare()
    assert (supervisor.lost, supervisor.ready, rig.broken) == (["was killed by SIGKILL"], 2, [])
    assert "SET_VRING_KICK" in second.names()


def test_every_ring_is_kicked_and_called_once(rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]) -> None:
    rig = rigs()
    first = fakes()
    Supervisor(rig, fakes())
    rig.attach(first)
    rig.drive(0, 1)
    lose(rig, first)
    rig.device.prepare()
    for queue in rig.queues(0, 1):
        assert os.eventfd_read(queue.kick_fd) == 1
        assert os.eventfd_read(queue.call_fd) == 1


def test_a_split_ring_goes_on_at_its_used_index(rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]) -> None:
    rig = rigs()
    first, second = fakes(), fakes()
    Supervisor(rig, second)
    rig.attach(first)
    rig.drive(0)
    (queue,) = rig.queues(0)
    os.pwrite(rig.ram, struct.pack("=HH", 0, 41), queue.device_area)
    lose(rig, first)
    rig.device.prepare()
    assert ("SET_VRING_BASE", (0, 41)) in second.seen


@pytest.mark.parametrize("number", range(30))
def test_a_backend_that_dies_at_any_message_is_replaced_within_the_call(
    rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend], number: int
) -> None:
    rig = rigs()
    first, second = fakes(), fakes()

    def die(fake: FakeBackend, frame: Frame) -> None:
        if len(fake.seen) > number:
            fake.hang_up()
        else:
            fake.honest(frame)

    first.answers = {message.name: die for message in wire.FRONTEND_REQUESTS.values()}
    supervisor = Supervisor(rig, second)
    rig.attach(first)
    rig.drive(0, 1, features=PACKED)
    assert rig.device.read_config(0, 4) == bytes(second.config[:4])
    assert rig.broken == []
    if supervisor.lost:
        assert second.names().count("SET_VRING_KICK") == 2
    else:  # there were not as many messages as that
        os.close(second.end)


def test_successors_that_die_are_succeeded(rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]) -> None:
    rig = rigs()
    chain = [fakes() for _ in range(5)]
    for fake in chain[:-1]:
        fake.answers["SET_VRING_ADDR"] = lambda fake, _frame: fake.hang_up()
    supervisor = Supervisor(rig, *chain[1:])
    rig.attach(chain[0])
    rig.drive(0, 1)
    assert len(supervisor.lost) == 4
    assert rig.broken == []


def test_a_backend_that_lost_a_feature_is_refused_by_name(
    rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]
) -> None:
    rig = rigs()
    first, poorer = fakes(), fakes(features=FEATURES & ~(1 << 34))
    supervisor = Supervisor(rig, poorer)
    rig.attach(first)
    rig.drive(0)
    lose(rig, first)
    with pytest.raises(DeviceBroken, match="lacks features 0x400000000"):
        rig.device.prepare()
    assert len(supervisor.unfit) == len(rig.broken) == 1
    assert "SET_VRING_KICK" not in poorer.names()


def test_a_backend_that_does_not_track_requests_cannot_follow_one_that_does(
    rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]
) -> None:
    rig = rigs()
    first, poorer = fakes(), fakes(protocol=PROTOCOL & ~wire.bits(wire.INFLIGHT_SHMFD))
    supervisor = Supervisor(rig, poorer)
    rig.attach(first)
    rig.drive(0)
    lose(rig, first)
    with pytest.raises(DeviceBroken, match="does not track requests"):
        rig.device.prepare()
    assert len(supervisor.unfit) == 1


def test_without_an_account_requests_in_flight_are_not_guessed(
    rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]
) -> None:
    rig = rigs()
    protocol = PROTOCOL & ~wire.bits(wire.INFLIGHT_SHMFD)
    first, second = fakes(protocol=protocol), fakes(protocol=protocol)
    Supervisor(rig, second)
    rig.attach(first)
    rig.drive(0)
    (queue,) = rig.queues(0)
    os.pwrite(rig.ram, struct.pack("=HH", 0, 3), queue.driver_area)  # three were made available, none is used
    lose(rig, first)
    with pytest.raises(DeviceBroken, match="kept no account"):
        rig.device.prepare()


def test_a_call_waits_for_the_replacement(rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]) -> None:
    rig = rigs()
    first, second = fakes(), fakes()
    Supervisor(rig)
    rig.attach(first)
    rig.drive(0)
    lose(rig, first)
    later = threading.Timer(0.05, rig.attach, (second,))
    later.start()
    assert rig.device.read_config(0, 4) == bytes(second.config[:4])
    later.join()


def test_giving_up_ends_the_wait(rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]) -> None:
    rig = rigs(timeout=30)
    first = fakes()
    Supervisor(rig)
    rig.attach(first)
    rig.drive(0)
    lose(rig, first)
    later = threading.Timer(0.05, rig.device.fail, ("too many restarts",))
    later.start()
    with pytest.raises(DeviceBroken, match="too many restarts"):
        rig.device.read_config(0, 4)
    later.join()


def test_a_driver_that_resets_meanwhile_starts_afresh(
    rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]
) -> None:
    rig = rigs()
    first, second = fakes(), fakes()
    Supervisor(rig)
    rig.attach(first)
    rig.drive(0)
    lose(rig, first)
    rig.device.reset()
    rig.attach(second)
    rig.device.prepare()
    assert "SET_VRING_KICK" not in second.names()
    rig.drive(0)
    assert "GET_INFLIGHT_FD" in second.names()
    assert rig.broken == []


def test_a_backend_that_dies_while_it_is_reset_leaves_nothing_to_restore(
    rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]
) -> None:
    rig = rigs()
    first, second = fakes(), fakes()
    first.answers["GET_VRING_BASE"] = lambda fake, _frame: fake.hang_up()
    Supervisor(rig, second)
    rig.attach(first)
    rig.drive(0)
    rig.device.reset()
    rig.device.prepare()
    assert "SET_VRING_KICK" not in second.names()
    rig.drive(0)
    assert rig.broken == []


def test_a_request_that_is_refused_costs_no_backend(
    rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]
) -> None:
    """The guest put its ring where there is no memory: another process would say no to that, too."""
    rig = rigs()
    fake = fakes()
    refuse = b"\1" + bytes(7)
    fake.answers["SET_VRING_ADDR"] = lambda fake, frame: fake.reply(frame, refuse)
    supervisor = Supervisor(rig)
    rig.attach(fake)
    with pytest.raises(DeviceBroken, match="refused SET_VRING_ADDR"):
        rig.drive(0)
    assert (supervisor.lost, len(rig.broken)) == ([], 1)
    del fake.answers["SET_VRING_ADDR"]
    rig.device.reset()
    rig.drive(0)


def test_a_backend_that_does_not_answer_a_ping_is_lost(
    rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]
) -> None:
    rig = rigs()
    first, second = fakes(), fakes()
    supervisor = Supervisor(rig, second)
    rig.attach(first)
    rig.drive(0)
    rig.device.ping(5.0)
    assert supervisor.lost == []
    first.answers["GET_FEATURES"] = lambda _fake, _frame: None
    rig.device.ping(0.05)
    assert supervisor.lost == ["the backend did not answer within 0.05 s"]
    rig.device.prepare()
    assert second.names().count("SET_VRING_KICK") == 1


def test_what_a_backend_owes_is_seen_from_outside(rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]) -> None:
    rig = rigs()
    rig.attach(fakes())
    rig.drive(0, 1)
    assert rig.device.outstanding() == b""
    kick = rig.queues(0)[0].kick_fd
    os.eventfd_write(kick, 1)
    before = rig.device.outstanding()
    assert before != b""
    assert rig.device.outstanding() == before
    os.eventfd_read(kick)
    assert rig.device.outstanding() == b""


def test_a_request_is_owed_when_its_doorbell_has_been_taken(
    rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]
) -> None:
    """The backend may be stopped between the two."""
    rig = rigs()
    rig.attach(fakes())
    rig.drive(0)
    (queue,) = rig.queues(0)
    os.pwrite(rig.ram, (1).to_bytes(2, "little"), queue.driver_area + 2)
    assert rig.device.outstanding() != b""
    os.pwrite(rig.ram, (1).to_bytes(2, "little"), queue.device_area + 2)
    assert rig.device.outstanding() == b""


def test_a_backend_without_account_of_requests_may_be_busy_with_them(
    rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]
) -> None:
    rig = rigs()
    rig.attach(fakes(protocol=PROTOCOL & ~wire.bits(wire.INFLIGHT_SHMFD)))
    rig.drive(0)
    (queue,) = rig.queues(0)
    os.pwrite(rig.ram, (1).to_bytes(2, "little"), queue.driver_area + 2)
    assert rig.device.outstanding() == b""


def test_so_it_is_in_a_packed_ring(rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]) -> None:
    rig = rigs()
    rig.attach(fakes())
    rig.drive(0, features=1 << 32 | 1 << 34)
    (queue,) = rig.queues(0)
    region = rig.device._rings.inflight
    assert region is not None
    head = struct.pack("<QHHHHHHBB10x", 0, 1, 128, 0, 0, 5, 5, 1, 1)
    os.pwrite(region.fd, head, region.offset)
    for flags, owed in ((0x0080, True), (0x8080, False), (0x8000, False), (0, False)):
        os.pwrite(rig.ram, flags.to_bytes(2, "little"), queue.descriptors + 16 * 5 + 14)
        assert (rig.device.outstanding() != b"") == owed, hex(flags)


def test_an_upgrade_stops_the_rings_on_one_and_goes_on_there_on_the_other(
    rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]
) -> None:
    rig = rigs()
    first, second = fakes(), fakes()
    Supervisor(rig)
    rig.attach(first)
    rig.drive(0, 1)
    assert rig.device.replace(second.end, lambda switch: switch()) > 0
    assert first.names().count("GET_VRING_BASE") == 2
    assert second.seen.count(("SET_VRING_BASE", (0, 17))) == 1  # as the first one answered
    assert rig.device.read_config(0, 4) == bytes(second.config[:4])
    assert rig.broken == []


@pytest.mark.parametrize(
    "message", ["GET_FEATURES", "SET_FEATURES", "ADD_MEM_REG", "GET_INFLIGHT_FD", "SET_VRING_KICK"]
)
def test_an_upgrade_to_a_backend_that_fails_leaves_the_old_one_serving(
    rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend], message: str
) -> None:
    rig = rigs()
    first, second = fakes(), fakes()
    second.answers[message] = lambda fake, _frame: fake.hang_up()
    supervisor = Supervisor(rig)
    rig.attach(first)
    rig.drive(0, 1)
    with pytest.raises(Exception, match="closed the connection"):
        rig.device.replace(second.end, lambda _switch: pytest.fail("it did not succeed"))
    starts = first.names().count("SET_VRING_KICK")
    assert starts == (4 if first.names().count("GET_VRING_BASE") else 2)
    rig.device.write_config(32, b"\0")
    assert first.names()[-1] == "SET_CONFIG"
    assert (supervisor.lost, rig.broken) == ([], [])
