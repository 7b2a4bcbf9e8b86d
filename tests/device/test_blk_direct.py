"""direct=on: whatever a driver asks for is made to fit the alignment that direct I/O needs, on 512 and 4096 bytes."""

from __future__ import annotations

import os
import random
import subprocess
from typing import TYPE_CHECKING

import pytest

from backends.blk.image import direct_alignment
from tests.device.blk_driver import FLUSH, IN, OK, OUT, Disk
from tests.device.blk_rings import Buffer
from tests.wire.raw_frontend import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ENGINES = ("io_uring", "native", "threads", "off")
OPERATIONS = 150


def alignment_of(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        return direct_alignment(fd)
    finally:
        os.close(fd)


@pytest.fixture
def loop(image: Path, tmp_path: Path) -> Iterator[Path]:
    """A link to a block device of 4096-byte sectors over the image, where the kernel insists on that alignment."""
    command = ["losetup", "--find", "--show", "--sector-size=4096", str(image)]
    try:
        made = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no loop device with sectors of 4096 bytes can be made here")
    link = tmp_path / "loop"
    link.symlink_to(made)
    yield link
    subprocess.run(["losetup", "--detach", made], check=True)


@pytest.fixture(params=["512", "4096"])
def direct(request: pytest.FixtureRequest, image: Path) -> Path:
    if request.param == "4096":
        path: Path = request.getfixturevalue("loop")
        assert alignment_of(path) == 4096
        return path
    if alignment_of(image) != 512:
        pytest.skip("direct I/O on temporary files needs more than 512 bytes of alignment")
    return image


@pytest.mark.parametrize("engine", ENGINES)
def test_any_sectors_to_and_from_any_address(disks: Callable[..., Disk], direct: Path, engine: str) -> None:
    disk = disks(direct, "--direct", f"--aio={engine}")
    chosen, model = random.Random(engine), bytearray(8 * MIB)
    for _ in range(OPERATIONS):
        sectors, sector = chosen.choice((1, 2, 7, 8, 16, 33)), chosen.randrange(1000)
        place = disk.room((sectors + 1) * 512, 4096) + chosen.choice((0, 0, 1, 3, 512))
        where = slice(sector * 512, (sector + sectors) * 512)
        if chosen.random() < 0.5:
            data = chosen.randbytes(sectors * 512)
            assert disk.write(sector, data, at=place) == OK
            model[where] = data
        else:
            assert disk.read(sector, sectors * 512, at=place) == model[where]
        disk.room(4096)
    assert disk.do(FLUSH).status == OK
    assert disk.read(0, 2 * MIB, at=disk.room(3 * MIB, 4096)) == model[: 2 * MIB]


@pytest.mark.parametrize("engine", ["io_uring", "threads"])
def test_neighbours_in_one_block_written_at_once_by_several_queues(
    disks: Callable[..., Disk], loop: Path, engine: str
) -> None:
    """Each replaces its part of a block by reading and writing all of it: none may undo what another did."""
    disk = disks(loop, "--direct", "--num-queues=4", f"--aio={engine}", queues=4)
    for turn in range(20):
        parts = [bytes([turn * 8 + part + 1]) * 512 for part in range(8)]
        keys = [
            disk.submit(OUT, block * 8 + part, parts[part], queue=part % 4) for part in range(8) for block in range(3)
        ]
        assert [disk.finish(key).status for key in keys] == [OK] * 24
        assert disk.read(0, 3 * 4096) == b"".join(parts) * 3


def test_a_request_larger_than_the_bounce_buffer(disks: Callable[..., Disk], direct: Path) -> None:
    data = random.Random(1).randbytes(3 * MIB + 512)
    disk = disks(direct, "--direct")
    assert disk.write(3, data, at=disk.room(4 * MIB, 4096) + 1) == OK
    assert disk.read(3, len(data), at=disk.room(4 * MIB, 4096) + 1) == data


def test_data_in_odd_pieces(disks: Callable[..., Disk], direct: Path) -> None:
    disk = disks(direct, "--direct")
    place = disk.room(8192)
    disk.ram[place : place + 4096] = bytes(range(256)) * 16
    pieces = [Buffer(place, 1), Buffer(place + 1, 4000), Buffer(place + 4001, 95)]
    assert disk.do_chain([disk.header(OUT, 8), *pieces, disk.status()]).status == OK
    back = [Buffer(place + 4096, 1000, True), Buffer(place + 5096, 3096, True)]
    assert disk.do_chain([disk.header(IN, 8), *back, disk.status()]).status == OK
    assert disk.ram[place + 4096 : place + 8192] == bytes(range(256)) * 16


@pytest.mark.parametrize("sectors", [3, 8 * 2 + 1])
def test_an_image_that_ends_within_a_block_keeps_its_length(disks: Callable[..., Disk], sectors: int) -> None:
    path = _shared_memory_image(sectors * 512)
    try:
        disk = disks(path, "--direct")
        model = bytes(range(1, sectors + 1))
        for sector in reversed(range(sectors)):
            assert disk.write(sector, model[sector : sector + 1] * 512) == OK
        expected = b"".join(model[sector : sector + 1] * 512 for sector in range(sectors))
        assert disk.read(0, sectors * 512) == expected
        assert path.read_bytes() == expected
    finally:
        path.unlink()
        path.with_suffix(".log").unlink()


def _shared_memory_image(size: int) -> Path:
    """An image on a tmpfs, which does not tell its alignment, so that 4096 is assumed."""
    from pathlib import Path

    path = Path(f"/dev/shm/stratocell-test-{os.getpid()}.img")
    try:
        path.write_bytes(bytes(size))
        if alignment_of(path) == 4096:
            return path
    except OSError:
        pass
    path.unlink(missing_ok=True)
    pytest.skip("no tmpfs with direct I/O at /dev/shm")
