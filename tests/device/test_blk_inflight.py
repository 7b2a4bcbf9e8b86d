"""Requests in flight survive kill -9 of their backend: the next one gets the region and does each exactly once."""

from __future__ import annotations

import os
import random
import select
import struct
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from ipc import vhost_user as wire
from tests.deadlines import Deadline
from tests.device.blk_driver import IN, OK, OUT
from tests.device.blk_survivor import PACKED_BASE, Survivor
from tests.wire.raw_frontend import MIB

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.device.blk_driver import Disk

KINDS = pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
ROUNDS, BATCH = 15, 20


@KINDS
@pytest.mark.parametrize("engine", ["io_uring", "threads"])
def test_killed_at_any_moment_every_request_is_done_once(
    survivors: Callable[..., Survivor], image: Path, packed: bool, engine: str
) -> None:
    chosen, expected = random.Random(f"{engine}{packed}"), {}
    survivor = survivors(packed, f"--aio={engine}", "--direct")
    base = PACKED_BASE if packed else 0
    assert survivor.hand_over(base)
    disk = survivor.disk
    for turn in range(ROUNDS):
        keys = {}
        for sector in chosen.sample(range(0, 2000, 8), BATCH):
            data = bytes([turn + 1, sector % 251]) * 2048
            keys[disk.submit(OUT, sector, data, indirect=True, kick=False)] = (sector, data)
        disk.kick()
        time.sleep(chosen.random() * 0.0008)  # any moment: before, while or after they are done
        survivor.kill()
        disk.collect()
        assert survivor.revive(base if packed or chosen.random() < 0.5 else disk.rings[0].next_used)
        for key, (sector, data) in keys.items():
            assert disk.finish(key).status == OK
            expected[sector] = data
        assert not disk.pending
    content = image.read_bytes()
    assert all(content[sector * 512 : sector * 512 + 4096] == data for sector, data in expected.items())
    assert survivor.ends_even()


@KINDS
def test_killed_again_before_anything_was_done(survivors: Callable[..., Survivor], packed: bool) -> None:
    """Requests that wait for their turn in one backend after the other."""
    survivor = survivors(packed)
    base = PACKED_BASE if packed else 0
    assert survivor.hand_over(base)
    keys = [survivor.disk.submit(IN, number, length=512) for number in range(10)]
    for _ in range(6):
        survivor.kill()
        assert survivor.revive(base)
    assert [survivor.disk.finish(key).status for key in keys] == [OK] * 10
    assert survivor.ends_even()


@KINDS
def test_the_event_index_of_a_dead_backend_stalls_nobody(survivors: Callable[..., Survivor], packed: bool) -> None:
    """The driver waits for an interrupt that died, and looks at an index that says not to kick: both are put right."""
    survivor = survivors(packed, event_idx=True)
    disk, base = survivor.disk, PACKED_BASE if packed else 0
    assert survivor.hand_over(base)
    for _ in range(3):
        assert disk.works()
    survivor.kill()
    ring = disk.rings[0]
    place = ring.device + (0 if packed else 4 + 8 * disk.size)
    ring.put16(place, 0x7777)
    while select.select([disk.calls[0]], [], [], 0)[0]:
        os.eventfd_read(disk.calls[0])
    assert survivor.revive(base)
    assert select.select([disk.calls[0]], [], [], 10)[0], "no interrupt"
    disk.kick()
    assert disk.works()
    wished = ring.next_available | getattr(ring, "available_wrap", 0) << 15
    deadline = Deadline(10)
    while ring.get16(place) != wished:
        assert deadline.left() > 0, f"{ring.get16(place):#x} instead of {wished:#x}"
    assert survivor.ends_even()


@KINDS
def test_a_ring_that_begins_anew_with_the_same_region(survivors: Callable[..., Survivor], packed: bool) -> None:
    """A guest that boots again: the front-end says where the ring is now, whatever the region remembers."""
    survivor, base = survivors(packed), PACKED_BASE if packed else 0
    assert survivor.hand_over(base)
    for _ in range(5):
        assert survivor.disk.works()
    survivor.disk.front.call(wire.GET_VRING_BASE, 0, 0)
    survivor.disk.begin_anew()
    assert survivor.disk.works()
    assert survivor.ends_even()


@KINDS
def test_a_region_full_of_nonsense_harms_nobody(survivors: Callable[..., Survivor], packed: bool) -> None:
    """It may be refused, as what no backend can have left behind; the backend is there afterwards."""
    survivor, refused = survivors(packed), 0
    for seed in range(12):
        survivor.kill()
        noise = bytearray(random.Random(seed).randbytes(survivor.layout[0]))
        noise[8:12] = struct.pack("<HH", 1, 64)
        survivor.region[:] = bytes(noise)
        survivor.disk.ram[: 64 << 10] = bytes(64 << 10)
        if survivor.revive(PACKED_BASE if packed else 0):
            survivor.disk.kick()
        else:
            refused += 1
        assert survivor.disk.front.call(wire.GET_VRING_BASE, 0, 0)
        assert survivor.disk.backend.alive()
    assert refused


@KINDS
@pytest.mark.parametrize("size", [1, 4, 512])
def test_a_ring_larger_than_its_part_of_the_region_does_not_start(
    disks: Callable[..., Disk], image: Path, packed: bool, size: int
) -> None:
    """Its requests would be noted past the region's end, or in another ring's part."""
    disk = disks(image, "--queue-size=1024", packed=packed, size=1024, start=False)
    layout, (fd,) = disk.front.call_with_fds(wire.GET_INFLIGHT_FD, 0, 0, 1, size)
    assert disk.front.acknowledged(wire.SET_INFLIGHT_FD, *layout, fds=[fd])
    os.close(fd)
    assert not disk.start_ring(0, PACKED_BASE if packed else 0)
    assert "inflight region is for rings of" in disk.backend.log()
    assert disk.backend.alive()


def test_asking_ten_thousand_times_for_a_region_costs_no_memory(disks: Callable[..., Disk], image: Path) -> None:
    disk = disks(image, "--queue-size=1024", "--num-queues=4", queues=4, start=False)
    process = psutil.Process(disk.backend.process.pid)

    def ask(times: int) -> tuple[tuple[int, int], int]:
        for _ in range(times):
            disk.front.call(wire.GET_INFLIGHT_FD, 0, 0, 4, 1024)
        disk.front.call(wire.GET_FEATURES)  # by then the last answer has been seen to
        return (process.num_fds(), len(process.memory_maps(grouped=False))), process.memory_full_info().uss

    (counts, before), (later_counts, after) = ask(100), ask(10_000)
    assert counts == later_counts
    assert after < before + MIB
