"""A driver that breaks its ring: the ring stops, the error eventfd and the log say so, the process and the other rings
go on, and a reset makes the ring work again (virtio 1.2, 2.7.5, 2.8.10).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import psutil
import pytest

from ipc import vhost_user as wire
from tests.device.blk_driver import GET_ID, IN, OK, RAM, Disk, Request
from tests.device.blk_rings import INDIRECT, NEXT, RING_BYTES, WRITE, Buffer, SplitRing
from tests.wire.raw_frontend import MIB, USER

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOLE = RAM + (1 << 30)  # a guest address where there is no memory
KINDS = pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])


@pytest.fixture
def disk(disks: Callable[..., Disk], image: Path) -> Disk:
    """Split rings; the second one is there to show that it goes on."""
    return disks(image, "--num-queues=2", queues=2, size=16)


def is_contained(disk: Disk) -> None:
    """Ring 0 is reported as broken and answers no more; ring 1 and the process go on; so does ring 0 when restarted."""
    assert disk.broken(), disk.backend.log()
    assert disk.works(queue=1)
    assert "ring 0" in disk.backend.log()
    base = disk.front.call(wire.GET_VRING_BASE, 0, 0)[1]
    assert disk.backend.alive()
    disk.pending = {key: request for key, request in disk.pending.items() if key[0]}
    disk.ram[:RING_BYTES] = bytes(RING_BYTES)
    disk.rings[0] = type(disk.rings[0])(disk.ram, 0, disk.size)
    assert disk.start_ring(0, 0x80008000 if disk.packed else 0)
    assert disk.works(), base


def split(disk: Disk) -> SplitRing:
    ring = disk.rings[0]
    assert isinstance(ring, SplitRing)
    return ring


def offer(disk: Disk, *descriptors: tuple[Buffer, int, int]) -> None:
    """Write descriptors (buffer, flags, next) from index 0 on and make the first one available."""
    ring = split(disk)
    for index, (buffer, flags, following) in enumerate(descriptors):
        ring.describe(index, buffer, flags, following)
    ring.offer(0)
    disk.kick()


def place_indirect_table(disk: Disk, table: Buffer) -> None:
    """Have the first descriptor of the first ring point to it, made available if nothing has been yet."""
    ring = disk.rings[0]
    flags = INDIRECT | (1 << 7 if disk.packed else 0)
    disk.ram[ring.base : ring.base + 16] = ring.entry(table, flags, 0)
    if isinstance(ring, SplitRing) and ring.next_available == 0:
        ring.offer(0)
    disk.kick()


@KINDS
def test_a_request_without_a_place_for_its_status(disks: Callable[..., Disk], image: Path, packed: bool) -> None:
    disk = disks(image, "--num-queues=2", queues=2, packed=packed)
    disk.submit_chain([disk.header(IN, 0)])
    is_contained(disk)


@KINDS
def test_readable_buffers_after_writable_ones(disks: Callable[..., Disk], image: Path, packed: bool) -> None:
    disk = disks(image, "--num-queues=2", queues=2, packed=packed)
    disk.submit_chain([disk.status(), disk.header(IN, 0)])
    is_contained(disk)


@KINDS
@pytest.mark.parametrize("indirect", [False, True], ids=["chained", "indirect"])
def test_buffers_outside_of_guest_memory(disks: Callable[..., Disk], image: Path, packed: bool, indirect: bool) -> None:
    disk = disks(image, "--num-queues=2", queues=2, packed=packed)
    for place, length in ((HOLE, 512), (RAM - 256, 512), ((1 << 64) - 512, 512)):
        disk.submit_chain([disk.header(IN, 0), Buffer(place, length, True), disk.status()], indirect=indirect)
        is_contained(disk)


@KINDS
@pytest.mark.parametrize("indirect", [False, True], ids=["chained", "indirect"])
def test_buffers_and_tables_over_the_hole_between_two_regions(
    disks: Callable[..., Disk], image: Path, packed: bool, indirect: bool
) -> None:
    disk = disks(image, "--num-queues=2", queues=2, packed=packed, size=16)
    end, beyond = RAM // 2, RAM // 2 + 4096
    table = [(0, end, USER, 0), (beyond, RAM - beyond, USER + beyond, beyond)]
    assert disk.front.acknowledged(wire.SET_MEM_TABLE, table, fds=[disk.ram_fd] * 2)
    for place, length in ((end - 256, 512), (end - 256, 8192), (end, 512), (beyond - 512, 1024)):
        disk.submit_chain([disk.header(IN, 0), Buffer(place, length, True), disk.status()], indirect=indirect)
        is_contained(disk)
    place_indirect_table(disk, Buffer(end - 32, 48))
    is_contained(disk)


@KINDS
def test_an_indirect_table_across_two_regions_that_adjoin(
    disks: Callable[..., Disk], image: Path, packed: bool
) -> None:
    """It is read whole, and may be longer than the ring."""
    disk, half = disks(image, packed=packed, size=16), RAM // 2
    table = [(0, half, USER, 0), (half, half, USER + half, half)]
    assert disk.front.acknowledged(wire.SET_MEM_TABLE, table, fds=[disk.ram_fd] * 2)
    chain = [disk.header(IN, 0), *(Buffer(disk.room(512), 512, True) for _ in range(15)), disk.status()]
    assert len(chain) == disk.size + 1
    key = (0, disk.rings[0].add(chain, half - 16 * 9 - 8))
    disk.pending[key] = Request(0, chain[-1].address, chain[1].address, 512)
    disk.kick()
    assert disk.finish(key)[::2] == (OK, 15 * 512 + 1)


def test_a_chain_without_an_end(disks: Callable[..., Disk], image: Path) -> None:
    """In a packed ring nothing loops, but every descriptor can name a successor."""
    disk = disks(image, "--num-queues=2", queues=2, packed=True, size=16)
    ring = disk.rings[0]
    for index in range(16):
        ring.put16(ring.base + 16 * index + 14, NEXT | 1 << 7)
    disk.kick()
    is_contained(disk)


def test_a_chain_that_loops(disk: Disk) -> None:
    offer(disk, (disk.header(IN, 0), NEXT, 1), (Buffer(disk.room(512), 512), NEXT, 0))
    is_contained(disk)


def test_a_chain_that_leaves_the_table(disk: Disk) -> None:
    offer(disk, (disk.header(IN, 0), NEXT, 16))
    is_contained(disk)


def test_a_head_that_is_no_descriptor(disk: Disk) -> None:
    split(disk).offer(16)
    disk.kick()
    is_contained(disk)


@pytest.mark.parametrize("jump", [17, 0x8000, 0xFFFF])
def test_an_index_that_jumps(disk: Disk, jump: int) -> None:
    split(disk).put16(split(disk).driver + 2, jump)
    disk.kick()
    is_contained(disk)


def test_an_index_that_goes_back(disk: Disk) -> None:
    assert disk.works()
    split(disk).put16(split(disk).driver + 2, 0)
    disk.kick()
    is_contained(disk)


@pytest.mark.parametrize("length", [0, 8, 24, 16 * 1025, 0xFFFFFFF0])
@KINDS
def test_an_indirect_table_of_a_wrong_size(disks: Callable[..., Disk], image: Path, packed: bool, length: int) -> None:
    disk = disks(image, "--num-queues=2", queues=2, packed=packed, size=16)
    ring, table = disk.rings[0], disk.room(64)
    flags = INDIRECT | (1 << 7 if packed else 0)
    disk.ram[ring.base : ring.base + 16] = ring.entry(Buffer(table, length), flags, 0)
    if isinstance(ring, SplitRing):
        ring.offer(0)
    disk.kick()
    is_contained(disk)


@pytest.mark.parametrize("place", [HOLE, RAM - 32, (1 << 64) - 32], ids=["hole", "across the end", "across zero"])
@KINDS
def test_an_indirect_table_outside_of_guest_memory(
    disks: Callable[..., Disk], image: Path, packed: bool, place: int
) -> None:
    disk = disks(image, "--num-queues=2", queues=2, packed=packed, size=16)
    ring = disk.rings[0]
    flags = INDIRECT | (1 << 7 if packed else 0)
    disk.ram[ring.base : ring.base + 16] = ring.entry(Buffer(place, 48), flags, 0)
    if isinstance(ring, SplitRing):
        ring.offer(0)
    disk.kick()
    is_contained(disk)


@pytest.mark.parametrize("flags", [INDIRECT, NEXT | INDIRECT])
def test_an_indirect_table_within_a_table_or_with_a_successor(disk: Disk, flags: int) -> None:
    table = disk.room(32)
    disk.ram[table : table + 16] = struct.pack("<QIHH", table, 16, INDIRECT, 0)
    offer(disk, (Buffer(table, 16), flags, 1), (disk.status(), WRITE, 0))
    is_contained(disk)


def test_an_indirect_table_that_loops(disk: Disk) -> None:
    table = disk.room(32)
    place = disk.room(512)
    disk.ram[table : table + 32] = struct.pack("<QIHH", place, 16, NEXT, 1) + struct.pack("<QIHH", place, 16, NEXT, 0)
    offer(disk, (Buffer(table, 32), INDIRECT, 0))
    is_contained(disk)


def test_an_indirect_table_without_the_feature(disks: Callable[..., Disk], image: Path) -> None:
    disk = disks(image, "--num-queues=2", queues=2, without=1 << 28)
    disk.submit(GET_ID, length=20, indirect=True)
    is_contained(disk)


def test_more_bytes_than_a_used_length_can_say(disk: Disk) -> None:
    big = Buffer(0, RAM, writable=True)
    count = (1 << 32) // RAM + 1
    disk.submit_chain([disk.header(IN, 0), *[big] * count, disk.status()], indirect=True)
    is_contained(disk)


def test_more_requests_than_the_ring_has_descriptors(disk: Disk) -> None:
    """A driver that never looks at what came back, and offers the same heads again and again."""
    ring = split(disk)
    place = disk.room(64)
    disk.ram[place : place + 16] = struct.pack("<IIQ", GET_ID, 0, 0)
    table = disk.room(48)
    ring.write_table(table, [Buffer(place, 16), Buffer(place + 16, 21, True)])
    for index in range(16):
        ring.describe(index, Buffer(table, 32), INDIRECT)
    memory = psutil.Process(disk.backend.process.pid).memory_full_info
    assert disk.works(queue=1)
    before = memory().uss
    for turn in range(200):
        for index in range(16):
            ring.put16(ring.driver + 4 + 2 * index, index)
        ring.put16(ring.driver + 2, 16 * (turn + 1))
        disk.kick()
    assert disk.works(queue=1)
    assert memory().uss < before + MIB
    assert disk.backend.alive()
    assert disk.do(GET_ID, length=20, queue=1).status == OK
