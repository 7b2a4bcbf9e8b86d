"""throttling.iops-total: the average number of requests a second, and that a limit can be missing."""

from __future__ import annotations

import os
import select
import time
from typing import TYPE_CHECKING

import pytest

from ipc import vhost_user as wire
from tests.device.blk_driver import IN, OK, Disk
from tests.device.blk_rings import INDIRECT, Buffer, SplitRing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIZE = 256
TOLERANCE = 0.05
SECONDS = 1.2
ATTEMPTS = 4  # a busy machine cannot always run a thread when it is due


class Flood:
    """Keeps a ring full of reads of one sector, each head again and again, by writing an index only."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        ring = disk.rings[0]
        assert isinstance(ring, SplitRing)
        self._ring = ring
        chain = [disk.header(IN, 0), Buffer(disk.room(512), 512, True), disk.status()]
        table = ring.write_table(disk.room(64), chain)
        for index in range(SIZE):
            ring.describe(index, table, INDIRECT)
            ring.put16(ring.driver + 4 + 2 * index, index)
        self._seen = 0

    def run(self, seconds: float) -> float:
        """Requests done per second, from one completion to another."""
        started = self._more()
        count, now = 0, started
        while now < started + seconds:
            before = self._seen
            now = self._more()
            count += (self._seen - before) & 0xFFFF
        return count / (now - started)

    def _more(self) -> float:
        """Wait for completions and offer that many requests again; returns when they were seen."""
        while self._ring.used_index() == self._seen:
            self._ring.put16(self._ring.driver + 2, self._seen + SIZE)
            self._disk.kick()
            assert select.select([self._disk.calls[0]], [], [], 10)[0]
            os.eventfd_read(self._disk.calls[0])
        now = time.monotonic()
        self._seen = self._ring.used_index()
        self._ring.put16(self._ring.driver + 2, self._seen + SIZE)
        self._disk.kick()
        return now


@pytest.mark.parametrize("engine", ["null", "io_uring"])
@pytest.mark.parametrize("iops", [200, 5_000, 50_000])
def test_the_average_is_held(disks: Callable[..., Disk], image: Path, iops: int, engine: str) -> None:
    flood = Flood(disks(image, f"--iops={iops}", f"--aio={engine}", size=SIZE))
    rates = []
    for _ in range(ATTEMPTS):
        rates.append(flood.run(SECONDS))
        if abs(rates[-1] / iops - 1) <= TOLERANCE:
            return
        assert rates[-1] < iops * (1 + TOLERANCE), "more than was allowed"
    pytest.fail(f"{iops} a second were asked for, and held were {rates}")


def test_all_queues_share_the_limit(disks: Callable[..., Disk], image: Path) -> None:
    disk = disks(image, "--iops=400", "--num-queues=4", queues=4)
    started = time.monotonic()
    keys = [disk.submit(IN, 0, length=512, queue=number % 4) for number in range(60)]
    assert [disk.finish(key).status for key in keys] == [OK] * 60
    assert time.monotonic() - started > 50 / 400


def test_a_throttled_disk_stops_at_once(disks: Callable[..., Disk], image: Path) -> None:
    """Requests that wait for their turn are not in flight: a stop does not wait for them, and they are not lost."""
    disk = disks(image, "--iops=2")
    keys = [disk.submit(IN, 0, length=512) for _ in range(10)]
    assert disk.finish(keys[0]).status == OK
    started = time.monotonic()
    base = disk.front.call(wire.GET_VRING_BASE, 0, 0)[1]
    assert time.monotonic() - started < 0.4
    assert base < 10
    disk.collect()
    assert len(disk.pending) == 10 - base
