"""Guest memory that comes and goes under a disk's rings, and the dirty log of what the disk writes (vhost-user)."""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

import pytest

from ipc import vhost_user as wire
from ipc.fds import close_all
from tests.device.blk_driver import F_LOG_ALL, GET_ID, IN, OK, OUT, RAM, Disk
from tests.device.blk_rings import RING_BYTES, Buffer
from tests.wire.raw_frontend import USER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PAGE = 4096
KINDS = pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
LOG_RING = 1  # VHOST_VRING_F_LOG


class Log:
    """A dirty log in shared memory, as the front-end reads it."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("dirty-log")
        self.size = RAM // PAGE // 8
        os.ftruncate(self.fd, self.size)
        self.map = mmap.mmap(self.fd, self.size)

    def take(self) -> set[int]:
        """The pages marked since the last call."""
        bits = int.from_bytes(self.map[:], "little")
        self.map[:] = bytes(self.size)
        return {page for page in range(RAM // PAGE) if bits >> page & 1}

    def close(self) -> None:
        self.map.close()
        os.close(self.fd)


@pytest.fixture
def log() -> Iterator[Log]:
    made = Log()
    yield made
    made.close()


def pages(address: int, length: int) -> set[int]:
    return set(range(address // PAGE, (address + length - 1) // PAGE + 1))


def logged(disks: Callable[..., Disk], image: Path, log: Log, *options: str, packed: bool) -> Disk:
    """A disk that logs what it writes, also to its rings."""
    disk = disks(image, *options, start=False, packed=packed, dirty_log=True)
    disk.front.call(wire.SET_LOG_BASE, log.size, 0, fds=[log.fd])
    assert disk.start_ring(0, 0x80008000 if packed else 0, LOG_RING)
    log.take()
    return disk


@KINDS
@pytest.mark.parametrize("options", [("--aio=io_uring",), ("--aio=threads",), ("--direct",)], ids=lambda o: o[0][2:])
def test_data_status_and_used_ring_are_marked(
    disks: Callable[..., Disk], image: Path, log: Log, packed: bool, options: tuple[str, ...]
) -> None:
    disk = logged(disks, image, log, *options, packed=packed)
    ring = disk.rings[0]
    place, status = disk.room(3 * PAGE, PAGE), Buffer(disk.room(2 * PAGE, PAGE) + PAGE, 1, True)
    data = [Buffer(place + 512, PAGE, True), Buffer(place + 2 * PAGE + 100, 512, True)]
    assert disk.do_chain([disk.header(IN, 0), *data, status]).status == OK
    expected = pages(data[0].address, PAGE) | pages(data[1].address, 512) | pages(status.address, 1)
    ring_pages = pages(ring.base if packed else ring.device, 1)
    found = log.take()
    assert expected | ring_pages <= found
    assert found <= expected | ring_pages | pages(ring.device, PAGE)


@KINDS
def test_a_write_marks_its_status_only(disks: Callable[..., Disk], image: Path, log: Log, packed: bool) -> None:
    disk = logged(disks, image, log, packed=packed)
    place, status = disk.room(PAGE, PAGE), Buffer(disk.room(PAGE, PAGE), 1, True)
    assert disk.do_chain([disk.header(OUT, 0), Buffer(place, PAGE), status]).status == OK
    found = log.take()
    assert pages(status.address, 1) <= found
    assert not pages(place, PAGE) & found


def test_logging_stops_when_the_front_end_says_so(disks: Callable[..., Disk], image: Path, log: Log) -> None:
    disk = logged(disks, image, log, packed=False)
    assert disk.front.acknowledged(wire.SET_FEATURES, disk.features & ~(1 << F_LOG_ALL))
    log.take()
    assert disk.do(GET_ID, length=20).status == OK
    assert log.take() == set()
    assert disk.front.acknowledged(wire.SET_FEATURES, disk.features)
    assert disk.do(GET_ID, length=20).status == OK
    assert log.take() != set()


@KINDS
def test_a_running_ring_follows_memory_that_is_mapped_anew(
    disks: Callable[..., Disk], image: Path, packed: bool
) -> None:
    disk = disks(image, packed=packed)
    for _ in range(3):
        assert disk.works()
        table = [(0, RAM // 2, USER, 0), (RAM // 2, RAM // 2, USER + RAM // 2, RAM // 2)]
        assert disk.front.acknowledged(wire.SET_MEM_TABLE, table, fds=[disk.ram_fd] * 2)
        assert disk.works()
        whole = RAM // 2 - 1024
        assert disk.write(0, b"across" * 512, at=whole) == OK
        assert disk.front.acknowledged(wire.SET_MEM_TABLE, [(0, RAM, USER, 0)], fds=[disk.ram_fd])
        assert disk.read(0, 3072) == b"across" * 512


def test_a_stopped_ring_starts_again_in_memory_that_was_replaced(disks: Callable[..., Disk], image: Path) -> None:
    disk = disks(image)
    assert disk.works()
    (_, base) = disk.front.call(wire.GET_VRING_BASE, 0, 0)
    assert disk.front.acknowledged(wire.SET_MEM_TABLE, [(0, RAM // 2, USER + RAM, 0)], fds=[disk.ram_fd])
    assert not disk.front.acknowledged(wire.SET_VRING_KICK, 0, fds=[disk.kicks[0]])
    copy = os.memfd_create("other-ram")
    os.ftruncate(copy, RAM)
    with mmap.mmap(copy, RAM) as moved:
        moved[:RING_BYTES] = disk.ram[:RING_BYTES]
    assert disk.front.acknowledged(wire.SET_MEM_TABLE, [(0, RAM, USER, 0)], fds=[copy])
    disk.ram.close()
    close_all([disk.ram_fd])
    disk.ram_fd, disk.ram = copy, mmap.mmap(copy, RAM)
    disk.rings[0].ram = disk.ram
    assert disk.front.acknowledged(wire.SET_VRING_BASE, 0, base)
    assert disk.front.acknowledged(wire.SET_VRING_KICK, 0, fds=[disk.kicks[0]])
    assert disk.works()


def test_a_memory_table_that_cannot_be_mapped_stops_the_rings_and_nothing_else(
    disks: Callable[..., Disk], image: Path
) -> None:
    disk = disks(image)
    locked = os.memfd_create("read-only-ram", os.MFD_ALLOW_SEALING)
    os.ftruncate(locked, RAM)
    readable = os.open(f"/proc/self/fd/{locked}", os.O_RDONLY)
    for _ in range(3):
        assert not disk.front.acknowledged(wire.SET_MEM_TABLE, [(0, RAM, USER, 0)], fds=[readable])
        disk.kick()
    close_all([locked, readable])
    assert disk.backend.alive()
    assert not disk.front.closed()
