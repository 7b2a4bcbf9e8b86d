"""Rings full of nonsense, and memory that changes while it is read: a disk breaks rings, and never itself."""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING

import pytest

from ipc import vhost_user as wire
from tests.device.blk_driver import DATA, GET_ID, RAM, Disk
from tests.device.blk_rings import AVAILABLE_FLAG, DRIVER_AREA, INDIRECT, RING_BYTES, USED_FLAG, Buffer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KINDS = pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
ENGINES = pytest.mark.parametrize("options", [("io_uring",), ("threads",), ("native", "--direct")], ids="-".join)
ROUNDS, SIZE = 40, 16
LENGTHS = (0, 1, 16, 17, 512, 513, 4096, 1 << 20, RAM, 1 << 31, 0xFFFFFFFF)
PLACES = (0, DATA, DATA + 1, DATA + 4096, RAM - 16, RAM - 1, RAM, 1 << 40, (1 << 64) - 16)
TYPES = (0, 1, 4, 8, 11, 13, 2, 0xFFFFFFFF)


def descriptor(chosen: random.Random, packed: bool) -> bytes:
    flags = chosen.choice((0, 1, 2, 3, 4, 5, 6)) | (chosen.choice((1 << 7, 1 << 15, 0)) if packed else 0)
    link = chosen.randrange(SIZE + 2)
    words = (link, flags) if packed else (flags, link)
    return struct.pack("<QIHH", chosen.choice(PLACES), chosen.choice(LENGTHS), *words)


def scribble(chosen: random.Random, disk: Disk) -> None:
    """Plausible nonsense over a ring and over what its descriptors point to."""
    base = disk.rings[0].base
    table = b"".join(descriptor(chosen, disk.packed) for _ in range(SIZE))
    disk.ram[base : base + len(table)] = table
    disk.ram[DATA : DATA + len(table)] = b"".join(descriptor(chosen, disk.packed) for _ in range(SIZE))
    header = struct.pack("<IIQ", chosen.choice(TYPES), 0, chosen.choice((0, 1, 1 << 14, 1 << 63)))
    disk.ram[DATA + 4096 : DATA + 4112] = header
    heads = struct.pack(f"<HH{SIZE}H", 0, chosen.randrange(1 << 16), *chosen.choices(range(SIZE + 1), k=SIZE))
    disk.ram[base + DRIVER_AREA : base + DRIVER_AREA + len(heads)] = heads


def restart(disk: Disk) -> None:
    disk.front.call(wire.GET_VRING_BASE, 0, 0)
    base = disk.rings[0].base
    disk.ram[base : base + RING_BYTES] = bytes(RING_BYTES)
    disk.rings[0] = type(disk.rings[0])(disk.ram, base, SIZE)
    assert disk.start_ring(0, 0x80008000 if disk.packed else 0)


@KINDS
@ENGINES
def test_nonsense(disks: Callable[..., Disk], image: Path, packed: bool, options: tuple[str, ...]) -> None:
    engine, *more = options
    disk = disks(image, f"--aio={engine}", "--discard", *more, packed=packed, size=SIZE, event_idx=True)
    chosen = random.Random(f"{packed}{options}")
    for _ in range(ROUNDS):
        scribble(chosen, disk)
        disk.kick()
        for _ in range(chosen.randrange(5)):  # while it is read
            scribble(chosen, disk)
            disk.kick()
        assert disk.backend.alive(), disk.backend.log()
        restart(disk)
        assert disk.do(GET_ID, length=20, indirect=True).status == 0


@KINDS
def test_requests_that_run_ahead_of_the_ring(disks: Callable[..., Disk], image: Path, packed: bool) -> None:
    """More than a ring holds, by turns of a kind that takes long and of one that is done at once."""
    disk = disks(image, "--aio=threads", "--queue-size=1024", packed=packed, size=1024)
    ring = disk.rings[0]
    data = Buffer(disk.room(1 << 20), 1 << 20, writable=True)
    slow = ring.write_table(disk.room(64), [disk.header(0, 0), data, disk.status()])
    quick = ring.write_table(disk.room(64), [disk.header(GET_ID, 0), Buffer(disk.room(21), 21, writable=True)])
    for turn in range(12):
        table, whose_turn = (slow, AVAILABLE_FLAG) if turn % 2 == 0 else (quick, USED_FLAG)
        for index in range(1024):
            words = (index, INDIRECT | whose_turn) if packed else (INDIRECT, 0)
            disk.ram[16 * index : 16 * index + 16] = struct.pack("<QIHH", table.address, table.length, *words)
            ring.put16(ring.driver + 4 + 2 * index, index)
        ring.put16(ring.driver + 2, 0 if packed else 1024 * (turn + 1))
        disk.kick()
    disk.front.call(wire.GET_VRING_BASE, 0, 0)
    assert disk.backend.alive(), disk.backend.log()
