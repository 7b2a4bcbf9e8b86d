"""Guest memory, dirty log and inflight region: what cannot be mapped safely is refused, what replaces frees the old."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ipc import vhost_user as wire
from ipc.connection import NEED_REPLY, VERSION
from ipc.errors import WireError
from tests.wire.conftest import open_fds
from tests.wire.raw_frontend import HIGH, LOW, MIB, NEXT, RAM_SIZE, USER

if TYPE_CHECKING:
    from tests.wire.memory_device import MemoryDevice
    from tests.wire.raw_frontend import RawFrontend

TOP = (1 << 64) - MIB  # the last MiB of the address space


def settled_fds(frontend: RawFrontend) -> int:
    """Descriptors open once the backend, in this process, has dealt with all that was sent."""
    frontend.call(wire.GET_FEATURES)
    return open_fds()


@pytest.mark.parametrize(
    "regions",
    [
        pytest.param([LOW, LOW], id="twice the same"),
        pytest.param([LOW, (MIB // 2, MIB, USER + 8 * MIB, 0)], id="guest addresses overlap"),
        pytest.param([LOW, (8 * MIB, MIB, USER + MIB // 2, 0)], id="user addresses overlap"),
        pytest.param([(0, 0, USER, 0)], id="empty"),
        pytest.param([(0, MIB + 1, USER, 0)], id="not whole pages"),
        pytest.param([(0, MIB, USER, 1)], id="offset inside a page"),
        pytest.param([(0, RAM_SIZE + 4096, USER, 0)], id="larger than the file"),
        pytest.param([(0, MIB, USER, RAM_SIZE)], id="beyond the file"),
        pytest.param([(0, MIB, USER, TOP)], id="offset that overflows"),
        pytest.param([(TOP, 2 * MIB, USER, 0)], id="guest address that overflows"),
        pytest.param([(0, 2 * MIB, TOP, 0)], id="user address that overflows"),
        pytest.param([(0, (1 << 64) - 4096, USER, 0)], id="nearly everything"),
    ],
)
def test_an_impossible_region_is_refused(
    frontend: RawFrontend, ram: int, regions: list[tuple[int, int, int, int]]
) -> None:
    assert not frontend.acknowledged(wire.SET_MEM_TABLE, regions, fds=[ram] * len(regions))
    frontend.map_ram(ram)


@pytest.mark.parametrize(("regions", "descriptors"), [(1, 0), (1, 2), (2, 1), (8, 7), (0, 1)])
def test_regions_and_descriptors_must_be_as_many(
    frontend: RawFrontend, ram: int, regions: int, descriptors: int
) -> None:
    table = [(number * MIB, 4096, USER + number * MIB, 0) for number in range(regions)]
    assert not frontend.acknowledged(wire.SET_MEM_TABLE, table, fds=[ram] * descriptors)


@pytest.mark.parametrize("count", [9, 100, 0xFFFFFFFF])
def test_a_table_that_announces_more_regions_than_it_has_is_refused(
    frontend: RawFrontend, ram: int, count: int
) -> None:
    payload = wire.SET_MEM_TABLE.payload.struct.pack(count) + bytes(32)
    assert not frontend.acknowledged(wire.SET_MEM_TABLE, payload=payload, fds=[ram])


def test_memory_that_is_no_file_is_refused(frontend: RawFrontend) -> None:
    ends = os.pipe()
    try:
        for fd in ends:
            assert not frontend.acknowledged(wire.SET_MEM_TABLE, [LOW], fds=[fd])
            assert not frontend.acknowledged(wire.ADD_MEM_REG, *LOW, fds=[fd])
    finally:
        for fd in ends:
            os.close(fd)


def test_regions_come_and_go_singly(frontend: RawFrontend, device: MemoryDevice, ram: int) -> None:
    for region in (LOW, NEXT, HIGH):
        assert frontend.acknowledged(wire.ADD_MEM_REG, *region, fds=[ram])
    assert len(device.regions) == 3
    assert not frontend.acknowledged(wire.ADD_MEM_REG, *NEXT, fds=[ram])
    assert frontend.acknowledged(wire.REM_MEM_REG, *NEXT, fds=[ram])  # a descriptor is tolerated, and closed
    assert not frontend.acknowledged(wire.REM_MEM_REG, *NEXT)
    assert not frontend.acknowledged(wire.REM_MEM_REG, LOW[0], LOW[1] - 4096, LOW[2], LOW[3])
    assert sorted(device.regions) == sorted(region[:3] for region in (LOW, HIGH))


def test_there_are_as_many_memory_slots_as_promised(frontend: RawFrontend, ram: int) -> None:
    if not wire.GET_MAX_MEM_SLOTS.allowed(frontend.protocol):
        pytest.skip("the backend offers no CONFIGURE_MEM_SLOTS")
    (slots,) = frontend.call(wire.GET_MAX_MEM_SLOTS)
    for slot in range(slots):
        assert frontend.acknowledged(wire.ADD_MEM_REG, slot * 8192, 4096, USER + slot * 8192, 0, fds=[ram])
    assert not frontend.acknowledged(wire.ADD_MEM_REG, slots * 8192, 4096, USER + slots * 8192, 0, fds=[ram])


def test_memory_under_a_running_ring_stays(frontend: RawFrontend, device: MemoryDevice, ram: int) -> None:
    frontend.map_ram(ram, LOW, HIGH)
    frontend.start_ring(0)
    assert not frontend.acknowledged(wire.REM_MEM_REG, *LOW)
    assert not frontend.acknowledged(wire.SET_MEM_TABLE, [HIGH], fds=[ram])
    assert frontend.acknowledged(wire.REM_MEM_REG, *HIGH)
    frontend.call(wire.GET_VRING_BASE, 0, 0)
    assert frontend.acknowledged(wire.REM_MEM_REG, *LOW)
    assert not device.regions


class TestDirtyLog:
    @pytest.fixture
    def mapped(self, frontend: RawFrontend, ram: int) -> RawFrontend:
        frontend.map_ram(ram)
        if not frontend.protocol >> wire.LOG_SHMFD & 1:
            pytest.skip("the backend offers no LOG_SHMFD")
        return frontend

    def test_a_log_is_taken(self, mapped: RawFrontend, device: MemoryDevice, ram: int) -> None:
        mapped.call(wire.SET_LOG_BASE, 4096, 4096, fds=[ram])
        assert device.log_fd >= 0
        mapped.call(wire.SET_LOG_BASE, 4096, 0, fds=[ram])

    @pytest.mark.parametrize(
        ("size", "offset"),
        [
            ((1 << 64) - 1, 4096),
            (4096, (1 << 64) - 4096),
            (1 << 63, 1 << 63),
            (4096, RAM_SIZE),
            (RAM_SIZE + 4096, 0),
            (RAM_SIZE, 4096),
            (0, 0),
            (4096, 1),
            (16, 0),  # 16 * 8 pages: not all of memory
        ],
    )
    def test_a_log_outside_its_file_or_too_small_ends_the_session(
        self, mapped: RawFrontend, ram: int, size: int, offset: int
    ) -> None:
        mapped.send(wire.SET_LOG_BASE, size, offset, fds=[ram])
        with pytest.raises(WireError):
            mapped.receive()

    def test_without_shared_memory_there_is_no_log(self, mapped: RawFrontend) -> None:
        mapped.send(wire.SET_LOG_BASE, 4096, 0)
        assert mapped.closed()


class TestInflight:
    @pytest.fixture
    def tracking(self, frontend: RawFrontend) -> RawFrontend:
        if not wire.GET_INFLIGHT_FD.allowed(frontend.protocol):
            pytest.skip("the backend offers no INFLIGHT_SHMFD")
        return frontend

    def test_the_region_can_be_given_back(self, tracking: RawFrontend) -> None:
        answer, (fd,) = tracking.call_with_fds(wire.GET_INFLIGHT_FD, 0, 0, 1, 64)
        try:
            size, offset, queues, queue_size = answer
            assert (queues, queue_size) == (1, 64)
            assert os.fstat(fd).st_size >= offset + size > 0
            assert tracking.acknowledged(wire.SET_INFLIGHT_FD, *answer, fds=[fd])
        finally:
            os.close(fd)

    def test_the_description_is_understood_with_and_without_padding(self, tracking: RawFrontend) -> None:
        for size in (20, 24):
            tracking.send(wire.GET_INFLIGHT_FD, payload=wire.GET_INFLIGHT_FD.payload.pack(0, 0, 1, 64)[:size])
            frame = tracking.receive()
            assert len(frame.fds) == 1
            frame.close()

    @pytest.mark.parametrize(("queues", "queue_size"), [(0, 64), (0xFFFF, 64), (1, 0), (1, 0xFFFF), (0xFFFF, 0xFFFF)])
    def test_more_rings_than_there_are_end_the_session(
        self, tracking: RawFrontend, queues: int, queue_size: int
    ) -> None:
        tracking.send(wire.GET_INFLIGHT_FD, 0, 0, queues, queue_size)
        assert tracking.closed()

    @pytest.mark.parametrize(
        ("size", "offset", "queues", "queue_size"),
        [
            (4096, 0, 0, 64),
            (4096, 0, 0xFFFF, 64),
            (4096, 0, 1, 0xFFFF),
            (16, 0, 1, 64),  # smaller than its rings need
            (RAM_SIZE + 4096, 0, 1, 64),
            (4096, RAM_SIZE, 1, 64),
            ((1 << 64) - 1, 4096, 1, 64),
            (4096, (1 << 64) - 4096, 1, 64),
        ],
    )
    def test_a_region_that_is_too_small_is_refused(
        self, tracking: RawFrontend, ram: int, size: int, offset: int, queues: int, queue_size: int
    ) -> None:
        assert not tracking.acknowledged(wire.SET_INFLIGHT_FD, size, offset, queues, queue_size, fds=[ram])

    def test_the_region_of_running_rings_stays(self, tracking: RawFrontend, ram: int) -> None:
        tracking.map_ram(ram)
        tracking.start_ring(0)
        assert not tracking.acknowledged(wire.SET_INFLIGHT_FD, RAM_SIZE, 0, 1, 64, fds=[ram])

    def test_asking_ten_thousand_times_leaks_nothing(self, tracking: RawFrontend, device: MemoryDevice) -> None:
        tracking.call(wire.GET_INFLIGHT_FD, 0, 0, 4, 256)
        before = settled_fds(tracking)
        for _ in range(10_000):
            tracking.call(wire.GET_INFLIGHT_FD, 0, 0, 4, 256)
        assert settled_fds(tracking) == before


def test_ten_thousand_messages_with_surplus_descriptors_leak_nothing(
    frontend: RawFrontend, device: MemoryDevice, ram: int
) -> None:
    frontend.map_ram(ram)
    before = settled_fds(frontend)
    for number in range(10_000):
        message = (wire.SET_OWNER, wire.SET_VRING_NUM, wire.SET_VRING_CALL, wire.REM_MEM_REG)[number % 4]
        surplus = message.fds[1] + 1 + number % 8
        frontend.send(message, payload=bytes(message.payload.size), fds=[ram] * surplus, flags=VERSION | NEED_REPLY)
        assert frontend.receive().payload != bytes(8)
    assert settled_fds(frontend) == before


def test_ten_thousand_tables_and_calls_leak_nothing(frontend: RawFrontend, device: MemoryDevice, ram: int) -> None:
    frontend.map_ram(ram)
    assert frontend.acknowledged(wire.SET_VRING_CALL, 0, fds=[ram])
    before = settled_fds(frontend)
    for _ in range(2_500):
        assert frontend.acknowledged(wire.SET_VRING_CALL, 0, fds=[ram])
        assert frontend.acknowledged(wire.SET_VRING_CALL, wire.VRING_NO_FD)
        assert frontend.acknowledged(wire.SET_VRING_CALL, 0, fds=[ram])
        assert frontend.acknowledged(wire.SET_MEM_TABLE, [LOW, NEXT, HIGH], fds=[ram] * 3)
    assert settled_fds(frontend) == before
