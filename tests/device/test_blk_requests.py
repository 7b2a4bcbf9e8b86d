"""What a driver may ask of a disk, on split and packed rings and with every engine (virtio 1.2, 5.2.6)."""

from __future__ import annotations

import select
import struct
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from ipc import vhost_user as wire
from tests.deadlines import Deadline
from tests.device.blk_driver import (
    DISCARD,
    F_CONFIG_WCE,
    F_FLUSH,
    FLUSH,
    GET_ID,
    IN,
    LIMIT,
    OK,
    OUT,
    WRITE_ZEROES,
    Disk,
)
from tests.device.blk_rings import Buffer
from tests.wire.raw_frontend import MIB

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ENGINES = ("io_uring", "native", "threads", "off")
KINDS = pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
BLOCK = bytes(range(256)) * 16


@KINDS
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("direct", [False, True], ids=["cached", "direct"])
def test_what_is_written_is_read_back(
    disks: Callable[..., Disk], image: Path, engine: str, packed: bool, direct: bool
) -> None:
    disk = disks(image, f"--aio={engine}", "--discard", *(["--direct"] if direct else []), packed=packed)
    assert disk.write(8, BLOCK) == OK
    assert disk.do(FLUSH).status == OK
    assert disk.read(8, len(BLOCK)) == BLOCK
    assert disk.read(0, 512) == bytes(512)
    assert image.read_bytes()[4096:8192] == BLOCK
    assert disk.range(DISCARD, 8, 8).status == OK
    assert disk.write(16, BLOCK) == OK
    assert disk.range(WRITE_ZEROES, 17, 6).status == OK
    assert disk.read(16, len(BLOCK)) == BLOCK[:512] + bytes(6 * 512) + BLOCK[-512:]
    assert image.stat().st_size == 8 * MIB


@KINDS
@pytest.mark.parametrize("event_idx", [False, True], ids=["flags", "event-index"])
@pytest.mark.parametrize("indirect", [False, True], ids=["chained", "indirect"])
def test_many_requests_at_once_each_keep_their_data(
    disks: Callable[..., Disk], image: Path, packed: bool, event_idx: bool, indirect: bool
) -> None:
    disk = disks(image, packed=packed, event_idx=event_idx, size=64)
    for turn in range(8):  # several times around the ring
        parts = [bytes([turn + 1, number]) * 256 for number in range(20)]
        keys = [disk.submit(OUT, turn * 20 + i, part, indirect=indirect) for i, part in enumerate(parts)]
        assert [disk.finish(key).status for key in keys] == [OK] * 20
        assert disk.read(turn * 20, 20 * 512, indirect=indirect) == b"".join(parts)


@KINDS
def test_a_packed_ring_of_odd_size_and_a_ring_of_two_wrap_around(
    disks: Callable[..., Disk], image: Path, packed: bool
) -> None:
    disk = disks(image, packed=packed, size=7 if packed else 2)
    for turn in range(30):
        data = bytes([turn]) * 512
        assert disk.write(turn, data, indirect=not packed) == OK
        assert disk.read(turn, 512, indirect=True) == data


def test_data_may_be_cut_into_descriptors_anywhere(disks: Callable[..., Disk], image: Path) -> None:
    disk = disks(image)
    header = disk.header(OUT, 0)
    place = disk.room(1024)
    disk.ram[place : place + 1024] = BLOCK[:1024]
    cuts = [0, 1, 3, 500, 513, 1024]
    parts = [Buffer(place + a, b - a) for a, b in pairwise(cuts)]
    head, tail = Buffer(header.address, 5), Buffer(header.address + 5, 11)
    assert disk.do_chain([head, tail, *parts, disk.status()]).status == OK
    assert disk.read(0, 1024) == BLOCK[:1024]


def test_header_data_and_status_may_share_descriptors(disks: Callable[..., Disk], image: Path) -> None:
    """Any layout: the header and the data in one buffer, the data and the status in another (virtio 1.2, 2.7.4.2)."""
    disk = disks(image)
    place = disk.room(16 + 512)
    disk.ram[place : place + 528] = struct.pack("<IIQ", OUT, 0, 3) + BLOCK[:512]
    assert disk.do_chain([Buffer(place, 528), disk.status()]).status == OK
    place = disk.room(513)
    result = disk.do_chain([disk.header(0, 3), Buffer(place, 513, writable=True)])
    assert (result.status, result.data[:512], result.written) == (OK, BLOCK[:512], 513)


@pytest.mark.parametrize("serial", ["", "disk-1", "exactly-20-bytes-abc"])
def test_the_serial_number_is_readable_and_padded_with_zeroes(
    disks: Callable[..., Disk], image: Path, serial: str
) -> None:
    result = disks(image, f"--serial={serial}").do(GET_ID, length=20)
    assert (result.status, result.data, result.written) == (OK, serial.encode().ljust(20, b"\0"), 21)


def test_several_queues_serve_one_disk(disks: Callable[..., Disk], image: Path) -> None:
    disk = disks(image, "--num-queues=6", queues=6)
    keys = [disk.submit(OUT, queue, bytes([queue + 1]) * 512, queue=queue) for queue in range(6)]
    assert [disk.finish(key).status for key in keys] == [OK] * 6
    assert disk.read(0, 6 * 512, queue=5) == b"".join(bytes([queue + 1]) * 512 for queue in range(6))


@pytest.mark.parametrize("unmap", ["on", "unmap"])
def test_written_zeroes_take_no_room_with_detect_zeroes(disks: Callable[..., Disk], image: Path, unmap: str) -> None:
    disk = disks(image, f"--detect-zeroes={unmap}", "--discard")
    assert disk.write(0, BLOCK * 16) == OK
    assert disk.do(FLUSH).status == OK
    before = image.stat().st_blocks
    assert disk.write(0, bytes(len(BLOCK) * 16)) == OK
    assert disk.read(0, len(BLOCK) * 16) == bytes(len(BLOCK) * 16)
    assert unmap == "on" or image.stat().st_blocks < before


def test_the_cache_mode_can_be_switched(disks: Callable[..., Disk], image: Path) -> None:
    disk = disks(image)
    assert disk.features >> F_CONFIG_WCE & 1
    assert disk.features >> F_FLUSH & 1
    assert disk.front.acknowledged(wire.SET_CONFIG, 32, 1, 0, b"\0")
    assert disk.write(0, BLOCK) == OK
    assert disk.range(WRITE_ZEROES, 0, 1).status == OK
    assert not disk.front.acknowledged(wire.SET_CONFIG, 0, 1, 0, b"\0")
    assert disk.read(0, 512) == bytes(512)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("direct", [False, True], ids=["cached", "direct"])
def test_large_requests_at_once(disks: Callable[..., Disk], image: Path, engine: str, direct: bool) -> None:
    """Of a size that io_uring hands to threads of its own."""
    disk = disks(image, f"--aio={engine}", *(["--direct"] if direct else []))
    parts = [bytes([number + 1]) * (MIB // 2) for number in range(8)]
    keys = [disk.submit(OUT, number * 1024, part) for number, part in enumerate(parts)]
    assert [disk.finish(key).status for key in keys] == [OK] * 8
    assert disk.do(FLUSH).status == OK
    keys = [disk.submit(IN, number * 1024, length=MIB // 2) for number in range(8)]
    assert [disk.finish(key).data for key in keys] == parts


@pytest.mark.parametrize("engine", ENGINES)
def test_a_doorbell_that_was_heard_is_taken(disks: Callable[..., Disk], image: Path, engine: str) -> None:
    """By what is left in it a front-end would go on for ever to look after a disk that has nothing to do."""
    disk = disks(image, f"--aio={engine}")
    for turn in range(3):
        assert disk.write(8 * turn, BLOCK) == OK
        deadline = Deadline(LIMIT)
        while select.select([disk.kicks[0]], [], [], 0)[0]:
            assert deadline.left() > 0, "the doorbell is still rung"
