"""What goes wrong below the disk reaches the guest as I/O errors and the log as lines; nothing dies."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.device.blk_driver import FLUSH, IN, IOERR, OK, OUT, WRITE_ZEROES, Disk
from tests.wire.raw_frontend import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ENGINES = pytest.mark.parametrize(
    "options", [("io_uring",), ("native",), ("threads",), ("off",), ("io_uring", "--direct"), ("native", "--direct")],
    ids="-".join,
)  # fmt: skip


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A sparse image of 8 MiB in a file system of 1 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a tmpfs cannot be mounted: not root, or a container")
    try:
        with (place / "disk.img").open("wb") as file:
            file.truncate(8 * MIB)
        yield place / "disk.img"
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@ENGINES
def test_a_full_file_system(disks: Callable[..., Disk], small: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    engine, *more = options
    disk = disks(small, f"--aio={engine}", *more, log=tmp_path / "log")
    block = b"\x42" * (128 << 10)
    statuses = [disk.write(number * 256, block) for number in range(16)]
    assert statuses[0] == OK
    assert statuses[-1] == IOERR
    assert "No space left on device" in disk.backend.log()
    assert disk.read(0, len(block)) == block
    assert disk.do(FLUSH).status == OK
    assert disk.range(WRITE_ZEROES, 0, 256, 1).status == OK  # gives room back
    assert disk.write(0, block) == OK


@ENGINES
def test_an_image_that_is_shortened_while_it_is_served(
    disks: Callable[..., Disk], image: Path, options: tuple[str, ...]
) -> None:
    engine, *more = options
    disk = disks(image, f"--aio={engine}", *more)
    assert disk.write(0, b"a" * 4096) == OK
    os.truncate(image, 8192)
    assert disk.do(IN, 64, length=4096).status == IOERR
    assert disk.do(IN, 8, length=8192).status == IOERR  # the first half is there
    assert "read of 4096 bytes at 32768 failed" in disk.backend.log()
    assert disk.read(0, 4096) == b"a" * 4096
    assert disk.write(64, b"b" * 4096) == OK  # the file grows again
    assert disk.read(64, 4096) == b"b" * 4096


def test_errors_do_not_flood_the_log(disks: Callable[..., Disk], image: Path) -> None:
    disk = disks(image)
    os.truncate(image, 0)
    for _ in range(300):
        assert disk.do(IN, 0, length=512).status == IOERR
    assert 1 <= disk.backend.log().count("failed") <= 50
    assert disk.works()


def test_a_disk_without_a_place_for_its_log_goes_on(disks: Callable[..., Disk], image: Path) -> None:
    """Whoever reads the log has gone: a pipe without a reader must not end the disk."""
    reader, writer = os.pipe()
    disk = disks(image, stderr=writer)
    os.close(reader)
    os.close(writer)
    os.truncate(image, 0)
    assert disk.do(IN, 0, length=512).status == IOERR
    disk.submit_chain([disk.header(OUT, 0)])
    assert disk.broken()
    assert disk.backend.alive()
