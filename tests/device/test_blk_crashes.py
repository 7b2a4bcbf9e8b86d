"""The inflight region as a crash between two given stores leaves it: what is done stays done, the rest is done once."""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING

import pytest

from tests.device.blk_driver import IN, OK
from tests.device.blk_rings import AVAILABLE_FLAG, USED_FLAG
from tests.device.blk_survivor import PACKED_BASE, Survivor

if TYPE_CHECKING:
    from collections.abc import Callable

SPLIT_HEADER, SPLIT_ENTRY = struct.Struct("<QHHHH"), struct.Struct("<B5xHQ")
PACKED_HEADER, PACKED_ENTRY = struct.Struct("<QHHHHHHBB10x"), struct.Struct("<BxHHHQHHIQ")


def test_split_published_but_not_noted(survivors: Callable[..., Survivor]) -> None:
    survivor = survivors(packed=False)
    survivor.kill()  # before it has seen anything: the region is the test's to write
    disk, ring = survivor.disk, survivor.disk.rings[0]
    first, second = disk.submit(IN, 0, length=512), disk.submit(IN, 8, length=512)
    entries = [(1, 0, 1)] + [(0, 0, 0)] * 63
    entries[second[1]] = (1, first[1], 2)
    write_split(survivor, (second[1], 0), entries)  # the first one is in the used ring, and the region does not know
    disk.ram[ring.device + 4 : ring.device + 12] = struct.pack("<II", first[1], 513)
    ring.put16(ring.device + 2, 1)
    write_split(survivor, (first[1], 0), entries)
    assert survivor.revive(0)
    assert disk.finish(second).status == OK
    assert disk.collect() is False
    assert disk.results.pop(first).written == 513
    assert survivor.ends_even()


def write_split(survivor: Survivor, state: tuple[int, int], entries: list[tuple[int, int, int]]) -> None:
    header = SPLIT_HEADER.pack(0, 1, 64, *state)
    content = header + b"".join(SPLIT_ENTRY.pack(*entry) for entry in entries)
    survivor.region[: len(content)] = content


def test_requests_that_had_their_turn_are_not_throttled_again(survivors: Callable[..., Survivor]) -> None:
    survivor = survivors(False, "--iops=1")
    survivor.kill()
    disk = survivor.disk
    keys = [disk.submit(IN, number, length=512, indirect=True) for number in range(6)]
    write_split(survivor, (0, 0), [(1, 0, number) for number in range(6)] + [(0, 0, 0)] * 58)
    assert survivor.revive(0)
    started = time.monotonic()
    assert [disk.finish(key).status for key in keys] == [OK] * 6
    assert time.monotonic() - started < 3


class PackedCrash:
    """Two indirect reads, made available in a ring of two, and a region that holds what was noted of them."""

    def __init__(self, survivor: Survivor) -> None:
        survivor.kill()  # before it has seen anything
        self.survivor = survivor
        self.disk = survivor.disk
        self.ring = survivor.disk.rings[0]
        self.keys = [self.disk.submit(IN, number * 8, length=512, indirect=True) for number in range(2)]
        self.header = {"free": 2, "old_free": 2, "used": 0, "old_used": 0, "wrap": 1, "old_wrap": 1}
        self.entries = [self._entry(0, number + 1) for number in range(2)]

    def _entry(self, inflight: int, following: int) -> list[int]:
        return [inflight, following, 0, 0, 0, 0, 0, 0, 0]

    def take(self, number: int) -> None:
        """Note request `number` as a backend does that takes it."""
        place = self.ring.base + 16 * number
        address, length, identity, flags = struct.unpack("<QIHH", self.disk.ram[place : place + 16])
        self.entries[number] = [1, number + 1, number, 1, number + 1, identity, flags, length, address]

    def used(self, number: int, slot: int) -> None:
        """Give request `number` back to the driver in `slot`, in the ring's first round."""
        place = self.ring.base + 16 * slot
        number_flags = (self.keys[number][1], AVAILABLE_FLAG | USED_FLAG | 2)
        self.disk.ram[place + 8 : place + 16] = struct.pack("<IHH", 513, *number_flags)

    def revive(self, **header: int) -> None:
        self.header |= header
        h = self.header
        content = PACKED_HEADER.pack(
            0, 1, 2, h["free"], h["old_free"], h["used"], h["old_used"], h["wrap"], h["old_wrap"]
        )
        content += b"".join(PACKED_ENTRY.pack(*entry) for entry in self.entries)
        self.survivor.region[: len(content)] = content
        self.survivor.revive(PACKED_BASE)


@pytest.fixture
def packed_crash(survivors: Callable[..., Survivor]) -> PackedCrash:
    return PackedCrash(survivors(packed=True, size=2))


def all_are_done(crashed: PackedCrash) -> None:
    assert [crashed.disk.finish(key).status for key in crashed.keys] == [OK, OK]
    assert crashed.survivor.ends_even()


def test_packed_taken_but_still_in_the_free_list(packed_crash: PackedCrash) -> None:
    packed_crash.take(0)
    packed_crash.revive(free=0, old_free=0)
    all_are_done(packed_crash)


def test_packed_out_of_one_free_list_of_two(packed_crash: PackedCrash) -> None:
    packed_crash.take(0)
    packed_crash.revive(free=0, old_free=1)
    all_are_done(packed_crash)


def test_packed_both_taken(packed_crash: PackedCrash) -> None:
    packed_crash.take(0)
    packed_crash.take(1)
    packed_crash.revive()
    all_are_done(packed_crash)


def test_packed_completion_begun_and_not_visible(packed_crash: PackedCrash) -> None:
    packed_crash.take(0)
    packed_crash.take(1)
    packed_crash.entries[0][1] = 2  # back in the free list's front
    packed_crash.revive(free=0, used=1)
    all_are_done(packed_crash)


def test_packed_completion_begun_before_the_position_was_noted(packed_crash: PackedCrash) -> None:
    packed_crash.take(0)
    packed_crash.take(1)
    packed_crash.entries[0][1] = 2
    packed_crash.revive(free=0)
    all_are_done(packed_crash)


def test_packed_completion_visible_and_not_noted(packed_crash: PackedCrash) -> None:
    packed_crash.take(0)
    packed_crash.take(1)
    packed_crash.entries[0][1] = 2
    packed_crash.used(0, slot=0)
    packed_crash.revive(free=0, used=1)
    disk = packed_crash.disk
    assert disk.finish(packed_crash.keys[1]).status == OK
    assert disk.results.pop(packed_crash.keys[0]).written == 513
    assert packed_crash.survivor.ends_even()


def test_packed_completion_whose_slot_the_driver_has_used_again(packed_crash: PackedCrash) -> None:
    packed_crash.take(0)
    packed_crash.take(1)
    packed_crash.entries[0][1] = 2
    packed_crash.used(0, slot=0)
    disk = packed_crash.disk
    assert disk.collect()
    third = disk.submit(IN, 16, length=512, indirect=True)  # in slot 0, one round later
    packed_crash.revive(free=0, used=1)
    assert [disk.finish(key).status for key in (packed_crash.keys[1], third)] == [OK, OK]
    assert packed_crash.survivor.ends_even()
