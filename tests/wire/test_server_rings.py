"""Rings: no index, size, address or order of messages makes a backend touch what is not a ring in guest memory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ipc import vhost_user as wire
from tests.wire.memory_device import REFUSED_BASE, RING_PACKED, VERSION_1
from tests.wire.raw_frontend import HIGH, LOW, MIB, NEXT, USER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.wire.memory_device import MemoryDevice
    from tests.wire.raw_frontend import RawFrontend

WITH_INDEX = [message for message in wire.FRONTEND_REQUESTS.values() if message.index and message.gate is None]
ADDRESS_ROLES = ("descriptors", "used", "available")


@pytest.fixture
def mapped(frontend: RawFrontend, ram: int) -> RawFrontend:
    frontend.map_ram(ram)
    return frontend


@pytest.fixture
def bell() -> Iterator[int]:
    fd = os.eventfd(0)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("index", [8, 0x7F, 0x80, 0xFF, 0x100, 0x10000, 0xFFFFFFFF])
@pytest.mark.parametrize("message", WITH_INDEX, ids=str)
def test_an_index_past_the_rings_is_refused(mapped: RawFrontend, bell: int, message: wire.Message, index: int) -> None:
    if index & 0xFF < 4 and message.index == wire.INDEX_LOW_BYTE:
        index |= 0x10000  # 0x100 alone is the "no descriptor" flag of ring 0
    rest = bytes(message.payload.size - (8 if message.index == wire.INDEX_LOW_BYTE else 4))
    width = 8 if message.index == wire.INDEX_LOW_BYTE else 4
    payload = index.to_bytes(width, "little") + rest
    assert not mapped.acknowledged(message, payload=payload, fds=[bell] * message.fds[1])


def test_a_ring_runs_from_its_first_kick_until_its_base_is_asked_for(mapped: RawFrontend, device: MemoryDevice) -> None:
    mapped.set_ring(1, base=7)
    assert 1 not in device.started
    mapped.start_ring(1, base=7)
    assert 1 in device.started
    assert 1 in device.enabled
    assert mapped.call(wire.GET_VRING_BASE, 1, 0) == (1, 7)
    assert 1 not in device.started
    assert ("kick", 1) not in device.ring_fds


def test_asking_a_ring_that_never_was_for_its_base_is_harmless(frontend: RawFrontend) -> None:
    assert frontend.call(wire.GET_VRING_BASE, 0, 0) == (0, 0)


def test_without_protocol_features_a_ring_starts_enabled(
    connect_frontend: Callable[[], RawFrontend], device: MemoryDevice, ram: int, bell: int
) -> None:
    old = connect_frontend()
    old.send(wire.SET_OWNER)
    old.send(wire.SET_FEATURES, VERSION_1)
    old.send(wire.SET_MEM_TABLE, [LOW], fds=[ram])
    old.send(wire.SET_VRING_NUM, 0, 64)
    old.send(wire.SET_VRING_ADDR, 0, 0, USER, USER + 0x2000, USER + 0x1000, 0)
    old.send(wire.SET_VRING_KICK, 0, fds=[bell])
    assert not old.closed()
    assert device.enabled == device.started == {0}


@pytest.mark.parametrize("num", [0, 3, 63, 257, 512, 1 << 15, 1 << 16, 1 << 31, (1 << 32) - 1])
def test_an_impossible_ring_size_is_refused(mapped: RawFrontend, device: MemoryDevice, num: int) -> None:
    assert not mapped.acknowledged(wire.SET_VRING_NUM, 0, num)


def test_a_packed_ring_may_have_any_size(frontend: RawFrontend, device: MemoryDevice) -> None:
    assert frontend.acknowledged(wire.SET_FEATURES, VERSION_1 | RING_PACKED)
    assert frontend.acknowledged(wire.SET_VRING_NUM, 0, 100)
    assert frontend.acknowledged(wire.SET_VRING_BASE, 0, 0x80008000)


def test_the_areas_of_a_packed_ring_may_end_where_memory_ends(
    frontend: RawFrontend, device: MemoryDevice, ram: int, bell: int
) -> None:
    assert frontend.acknowledged(wire.SET_FEATURES, VERSION_1 | RING_PACKED)
    frontend.map_ram(ram)
    assert frontend.acknowledged(wire.SET_VRING_NUM, 0, 100)
    end = HIGH[2] + MIB
    assert not frontend.acknowledged(wire.SET_VRING_ADDR, 0, 0, end - 1584, end - 4, end - 4, 0)
    assert not frontend.acknowledged(wire.SET_VRING_ADDR, 0, 0, end - 1600, end, end - 4, 0)
    assert frontend.acknowledged(wire.SET_VRING_ADDR, 0, 0, end - 1600, end - 4, end - 4, 0)
    assert frontend.acknowledged(wire.SET_VRING_KICK, 0, fds=[bell])


@pytest.mark.parametrize("base", [0x10000, 0x80000000])
def test_a_split_base_of_more_than_16_bits_is_refused(mapped: RawFrontend, base: int) -> None:
    assert not mapped.acknowledged(wire.SET_VRING_BASE, 0, base)


@pytest.mark.parametrize("role", ADDRESS_ROLES)
@pytest.mark.parametrize(
    "address",
    [
        pytest.param(0, id="zero"),
        pytest.param(USER - 16, id="before memory"),
        pytest.param(NEXT[2] - 16, id="into the adjoining region"),
        pytest.param(NEXT[2] + MIB - 16, id="into the hole"),
        pytest.param(NEXT[2] + MIB, id="in the hole"),
        pytest.param(HIGH[2] + MIB - 16, id="over the end"),
        pytest.param(HIGH[2] + MIB, id="after memory"),
        pytest.param((1 << 64) - 16, id="at the end of addresses"),
        pytest.param(0x4000, id="a guest address"),
        pytest.param(USER + 1, id="unaligned"),
    ],
)
def test_a_ring_part_that_is_not_whole_in_one_region_is_refused(
    mapped: RawFrontend, bell: int, role: str, address: int
) -> None:
    assert mapped.acknowledged(wire.SET_VRING_NUM, 0, 64)
    parts = {"descriptors": USER, "used": USER + 0x2000, "available": USER + 0x1000, role: address}
    assert not mapped.acknowledged(wire.SET_VRING_ADDR, 0, 0, *(parts[name] for name in ADDRESS_ROLES), 0)
    assert not mapped.acknowledged(wire.SET_VRING_KICK, 0, fds=[bell])


@pytest.mark.parametrize(("part", "size"), [(0, 16 * 64), (1, 6 + 8 * 64), (2, 6 + 2 * 64)])
def test_a_ring_part_may_end_where_its_region_ends(mapped: RawFrontend, part: int, size: int) -> None:
    assert mapped.acknowledged(wire.SET_VRING_NUM, 0, 64)
    parts = [USER, USER + 0x2000, USER + 0x1000]
    alignment = (16, 4, 2)[part]
    parts[part] = (HIGH[2] + MIB - size) & -alignment
    assert mapped.acknowledged(wire.SET_VRING_ADDR, 0, 0, *parts, 0)


def test_a_ring_that_grew_after_its_addresses_were_checked_is_checked_again(mapped: RawFrontend, bell: int) -> None:
    end = HIGH[2] + MIB
    assert mapped.acknowledged(wire.SET_VRING_NUM, 0, 4)
    assert mapped.acknowledged(wire.SET_VRING_ADDR, 0, 0, end - 64, USER + 0x2000, USER + 0x1000, 0)
    assert mapped.acknowledged(wire.SET_VRING_NUM, 0, 128)
    assert not mapped.acknowledged(wire.SET_VRING_KICK, 0, fds=[bell])


def test_a_ring_whose_memory_went_away_does_not_start(mapped: RawFrontend, ram: int, bell: int) -> None:
    mapped.set_ring(0)
    mapped.map_ram(ram, HIGH)
    assert not mapped.acknowledged(wire.SET_VRING_KICK, 0, fds=[bell])


@pytest.mark.parametrize("prepared", ["nothing", "size", "size and addresses out of memory"])
def test_a_ring_that_is_not_set_up_does_not_start(mapped: RawFrontend, bell: int, prepared: str) -> None:
    if prepared != "nothing":
        assert mapped.acknowledged(wire.SET_VRING_NUM, 0, 64)
    if prepared.endswith("memory"):
        assert not mapped.acknowledged(wire.SET_VRING_ADDR, 0, 0, 0, 0, 0, 0)
    assert not mapped.acknowledged(wire.SET_VRING_KICK, 0, fds=[bell])


class TestRunningRing:
    @pytest.fixture
    def running(self, mapped: RawFrontend) -> RawFrontend:
        mapped.start_ring(0)
        return mapped

    def test_its_shape_is_settled(self, running: RawFrontend, device: MemoryDevice) -> None:
        assert not running.acknowledged(wire.SET_VRING_NUM, 0, 32)
        assert not running.acknowledged(wire.SET_VRING_BASE, 0, 1)
        assert not running.acknowledged(wire.SET_VRING_ADDR, 0, 0, USER + 0x4000, USER + 0x2000, USER + 0x1000, 0)
        assert not running.acknowledged(wire.SET_FEATURES, VERSION_1 | RING_PACKED)

    def test_its_logging_can_be_switched(self, running: RawFrontend, device: MemoryDevice) -> None:
        assert running.acknowledged(wire.SET_VRING_ADDR, 0, 1, USER, USER + 0x2000, USER + 0x1000, 0x2000)
        assert device.calls[-1] == ("addr", 0, 1, USER, USER + 0x2000, USER + 0x1000, 0x2000)
        assert running.acknowledged(wire.SET_FEATURES, device.acked | 1 << wire.F_LOG_ALL)

    def test_its_doorbell_can_be_replaced(self, running: RawFrontend, device: MemoryDevice, bell: int) -> None:
        assert running.acknowledged(wire.SET_VRING_KICK, 0, fds=[bell])
        assert running.acknowledged(wire.SET_VRING_KICK, wire.VRING_NO_FD)
        assert 0 in device.started

    def test_a_device_reset_stops_it(self, running: RawFrontend, device: MemoryDevice) -> None:
        assert running.acknowledged(wire.RESET_DEVICE)
        assert not device.started
        assert ("reset",) in device.calls
        assert running.acknowledged(wire.SET_VRING_NUM, 0, 32)

    def test_the_old_reset_owner_disables_it(self, running: RawFrontend, device: MemoryDevice) -> None:
        assert running.acknowledged(wire.RESET_OWNER)
        assert device.started
        assert not device.enabled


@pytest.mark.parametrize("message", [wire.SET_VRING_KICK, wire.SET_VRING_CALL, wire.SET_VRING_ERR], ids=str)
def test_the_no_descriptor_flag_must_tell_the_truth(mapped: RawFrontend, bell: int, message: wire.Message) -> None:
    mapped.set_ring(0)
    assert not mapped.acknowledged(message, 0)
    assert not mapped.acknowledged(message, wire.VRING_NO_FD, fds=[bell])
    taken = mapped.acknowledged(message, wire.VRING_NO_FD)
    assert taken or message is wire.SET_VRING_KICK  # a device need not offer to poll


@pytest.mark.parametrize("value", [2, 0xFFFFFFFF])
def test_a_ring_is_either_enabled_or_not(mapped: RawFrontend, value: int) -> None:
    assert not mapped.acknowledged(wire.SET_VRING_ENABLE, 0, value)


def test_unknown_address_flags_are_refused(mapped: RawFrontend) -> None:
    assert mapped.acknowledged(wire.SET_VRING_NUM, 0, 64)
    assert not mapped.acknowledged(wire.SET_VRING_ADDR, 0, 2, USER, USER + 0x2000, USER + 0x1000, 0)


def test_what_the_device_refuses_is_answered_as_failed(mapped: RawFrontend, device: MemoryDevice) -> None:
    assert not mapped.acknowledged(wire.SET_VRING_BASE, 0, REFUSED_BASE)
    assert not mapped.closed()
