"""blk's policy suffices: a disk does everything that a disk does, with each engine, inside its real sandbox."""

from __future__ import annotations

import mmap
import os
import select
import struct
from typing import TYPE_CHECKING

import pytest

from ipc import vhost_user as wire
from ipc.fds import close_all
from tests.security.cell import Cell
from tests.wire.raw_frontend import LOW, RAM_SIZE, USER, RawFrontend

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 4, 8, 11, 13
DESCRIPTORS, AVAILABLE, USED = 0, 0x1000, 0x2000  # where `set_ring` puts them
HEADER, STATUS, RANGE, DATA = 0x8000, 0x8100, 0x8200, 0x10000
NEXT, WRITE = 1, 2
SECTOR, BLOCK = 512, 4096
IMAGE_SIZE = 8 << 20
ENGINES = ("io_uring", "native", "threads", "off")


class Disk:
    """A disk in its sandbox, and one request at a time on its first queue."""

    def __init__(self, cell: Cell, image: int, engine: str) -> None:
        options: dict[str, str | int | bool | None] = {
            "aio": engine,
            "discard": True,
            "serial": "policy",
            "detect_zeroes": "unmap",
        }
        self.peer = cell.start("disk", options, {"image": image})
        self.front = RawFrontend(self.peer.take_socket())
        self.ram_fd = os.memfd_create("ram", os.MFD_ALLOW_SEALING)
        os.ftruncate(self.ram_fd, RAM_SIZE)
        self.ram = mmap.mmap(self.ram_fd, RAM_SIZE)
        self.kick, self.call = os.eventfd(0), os.eventfd(0)
        self._count = 0

    def start(self) -> None:
        features = self.front.call(wire.GET_FEATURES)[0]
        self.front.greet(features=features & ~(1 << 34 | 1 << 29))  # split rings, every interrupt
        self.front.map_ram(self.ram_fd, LOW)
        layout, fds = self.front.call_with_fds(wire.GET_INFLIGHT_FD, 0, 0, 1, 64)
        assert self.front.acknowledged(wire.SET_INFLIGHT_FD, *layout, fds=fds)
        close_all(fds)
        self.front.set_ring(num=64)
        assert self.front.acknowledged(wire.SET_VRING_CALL, 0, fds=[self.call])
        assert self.front.acknowledged(wire.SET_VRING_KICK, 0, fds=[self.kick])
        assert self.front.acknowledged(wire.SET_VRING_ENABLE, 0, 1)

    def request(self, kind: int, sector: int, where: int, length: int) -> int:
        """Do one request whose data is at guest address `where`; returns its status."""
        self.ram[HEADER : HEADER + 16] = struct.pack("<IIQ", kind, 0, sector)
        self.ram[STATUS] = 0xFF
        parts = [(HEADER, 16, 0), (where, length, WRITE if kind in (IN, GET_ID) else 0), (STATUS, 1, WRITE)]
        parts = [part for part in parts if part[1]]
        for index, (address, size, flags) in enumerate(parts):
            more = NEXT if index + 1 < len(parts) else 0
            self.ram[index * 16 : index * 16 + 16] = struct.pack("<QIHH", address, size, flags | more, index + 1)
        slot = AVAILABLE + 4 + self._count % 64 * 2
        self.ram[slot : slot + 2] = b"\0\0"
        self._count += 1
        self.ram[AVAILABLE + 2 : AVAILABLE + 4] = struct.pack("<H", self._count)
        os.eventfd_write(self.kick, 1)
        while self.ram[USED + 2 : USED + 4] != struct.pack("<H", self._count):  # the first interrupt is a greeting
            assert select.select([self.call], [], [], 10)[0], (self.peer.process.last_lines, "no interrupt")
            os.eventfd_read(self.call)
        return self.ram[STATUS]

    def close(self) -> None:
        self.front.close()
        self.ram.close()
        close_all([self.ram_fd, self.kick, self.call])


@pytest.fixture(scope="module")
def blk() -> Iterator[Cell]:
    made = Cell("blk")
    yield made
    made.close()


@pytest.fixture
def image(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "image"
    path.write_bytes(bytes(IMAGE_SIZE))
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_disk_works_inside_its_sandbox(blk: Cell, image: int, engine: str) -> None:
    disk = Disk(blk, image, engine)
    disk.start()
    disk.ram[DATA : DATA + BLOCK] = b"\x5a" * BLOCK
    assert disk.request(OUT, 8, DATA, BLOCK) == 0
    assert disk.request(FLUSH, 0, 0, 0) == 0
    assert os.pread(image, BLOCK, BLOCK) == b"\x5a" * BLOCK
    assert disk.request(IN, 8, DATA + BLOCK, BLOCK) == 0
    assert disk.ram[DATA + BLOCK : DATA + 2 * BLOCK] == b"\x5a" * BLOCK
    assert disk.request(GET_ID, 0, DATA, 20) == 0
    for kind in (DISCARD, WRITE_ZEROES):
        disk.ram[RANGE : RANGE + 16] = struct.pack("<QII", 8, BLOCK // SECTOR, 0)
        assert disk.request(kind, 0, RANGE, 16) == 0
    assert os.pread(image, BLOCK, BLOCK) == bytes(BLOCK)
    disk.ram[DATA : DATA + BLOCK] = bytes(BLOCK)
    assert disk.request(OUT, 8, DATA, BLOCK) == 0  # zeroes are detected
    assert disk.request(IN, IMAGE_SIZE // SECTOR, DATA, BLOCK) == 1  # past the end
    assert disk.front.call(wire.GET_VRING_BASE, 0, 0)[1] == 8
    disk.close()
    disk.peer.hang_up()
    assert disk.peer.ended().end_reason == "exited with status 0", disk.peer.process.last_lines


@pytest.mark.parametrize("engine", ENGINES)
def test_a_front_end_that_makes_no_sense_does_not_end_in_a_forbidden_call(blk: Cell, image: int, engine: str) -> None:
    disk = Disk(blk, image, engine)
    disk.front.greet()
    assert not disk.front.acknowledged(wire.SET_VRING_NUM, 0, 3)
    assert not disk.front.acknowledged(wire.SET_MEM_TABLE, [(0, 1 << 20, USER, 0)], fds=[disk.kick])
    disk.front.raw(b"\xff" * 64)
    disk.close()
    disk.peer.hang_up()
    assert disk.peer.ended().end_reason == "exited with status 0", disk.peer.process.last_lines
