"""A ring that is stopped has given back all that it took, and goes on where it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ipc import vhost_user as wire
from tests.device.blk_driver import IN, OK, OUT, Disk
from tests.device.blk_rings import PackedRing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ENGINES = pytest.mark.parametrize("engine", ["io_uring", "native", "threads", "off"])
KINDS = pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
TURNS, BATCH = 60, 12


@ENGINES
@KINDS
def test_stopped_under_load_and_started_again(
    disks: Callable[..., Disk], image: Path, engine: str, packed: bool
) -> None:
    disk = disks(image, f"--aio={engine}", packed=packed)
    keys = []
    for turn in range(TURNS):
        keys += [disk.submit(IN, number * 8, length=4096, indirect=True) for number in range(turn % BATCH)]
        base = disk.front.call(wire.GET_VRING_BASE, 0, 0)[1]
        disk.collect()
        assert (base & 0xFFFF, base >> 16) == given_back(disk)
        assert disk.start_ring(0, base)
        if turn % 3 == 0:
            assert {disk.finish(key).status for key in keys} <= {OK}
            keys = []
    assert {disk.finish(key).status for key in keys} <= {OK}


def given_back(disk: Disk) -> tuple[int, int]:
    """What GET_VRING_BASE must say of a ring whose used entries have been taken."""
    ring = disk.rings[0]
    if not isinstance(ring, PackedRing):
        return ring.next_used, 0
    position = ring.next_used | ring.used_wrap << 15
    return position, position


@ENGINES
def test_a_reset_under_load_leaves_a_disk_that_works(disks: Callable[..., Disk], image: Path, engine: str) -> None:
    disk, newest = disks(image, f"--aio={engine}"), 0
    for turn in range(20):
        for number in range(BATCH):
            disk.submit(OUT, number * 8, bytes([turn]) * 4096)
        assert disk.front.acknowledged(wire.RESET_DEVICE)
        disk.begin_anew()
        data = disk.read(0, 4096)  # whole writes, of this turn or, where the reset was faster, of an earlier one
        assert data == data[:1] * 4096
        assert newest <= data[0] <= turn
        newest = data[0]


def test_a_ring_that_is_disabled_rests_until_it_is_enabled(disks: Callable[..., Disk], image: Path) -> None:
    disk = disks(image)
    assert disk.front.acknowledged(wire.SET_VRING_ENABLE, 0, 0)
    key = disk.submit(IN, 0, length=512)
    assert disk.front.acknowledged(wire.SET_VRING_ENABLE, 0, 0)
    assert not disk.collect()
    assert disk.front.acknowledged(wire.SET_VRING_ENABLE, 0, 1)
    assert disk.finish(key).status == OK
