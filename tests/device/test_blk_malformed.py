"""Requests that make no sense get the status the specification has for them, and the ring goes on (virtio 1.2, 5.2.6).

Rings that make no sense are another matter: test_blk_broken_rings.py.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from tests.device.blk_driver import (
    DISCARD,
    FLUSH,
    GET_ID,
    IN,
    IOERR,
    OK,
    OUT,
    UNSUPP,
    WRITE_ZEROES,
    Disk,
)
from tests.device.blk_rings import Buffer
from tests.wire.raw_frontend import MIB

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECTORS = 8 * MIB // 512
TOP = (1 << 64) - 1
RANGE = struct.Struct("<QII")
UNMAP = 1


@pytest.fixture(params=[False, True], ids=["split", "packed"])
def disk(request: pytest.FixtureRequest, disks: Callable[..., Disk], image: Path) -> Disk:
    return disks(image, "--discard", "--serial=still-here", packed=request.param)


@pytest.fixture
def survives(disk: Disk) -> Callable[[], None]:
    """Checks that the ring still works and that nothing was written to the image."""

    def check() -> None:
        assert disk.do(GET_ID, length=20).data.startswith(b"still-here")
        assert disk.write(1, b"\x11" * 512) == OK
        assert disk.read(0, 1024) == bytes(512) + b"\x11" * 512

    return check


def test_requests_of_an_unknown_type_are_unsupported(disk: Disk, survives: Callable[[], None]) -> None:
    for kind in (2, 3, 5, 7, 10, 12, 14, 1 << 31, 0xFFFFFFFF):
        assert disk.do(kind, length=512)[::2] == (UNSUPP, 1)
        assert disk.do(kind, 0, b"x" * 512).status == UNSUPP
    survives()


@pytest.mark.parametrize(
    ("sector", "length"),
    [(SECTORS, 512), (SECTORS - 1, 1024), (TOP, 512), (TOP // 512, 4096), (1 << 55, 512), (SECTORS + 1, 512)],
)
def test_nothing_is_read_or_written_past_the_end(
    disk: Disk, survives: Callable[[], None], sector: int, length: int
) -> None:
    assert disk.do(IN, sector, length=length)[::2] == (IOERR, 1)
    assert disk.do(OUT, sector, b"x" * length).status == IOERR
    survives()


@pytest.mark.parametrize("length", [1, 511, 513, 1000])
def test_lengths_that_are_no_sectors_are_refused(disk: Disk, survives: Callable[[], None], length: int) -> None:
    assert disk.do(IN, 0, length=length)[::2] == (IOERR, 1)
    assert disk.do(OUT, 0, b"x" * length).status == IOERR
    survives()


def test_requests_without_data_are_refused(disk: Disk, survives: Callable[[], None]) -> None:
    for kind in (IN, OUT, DISCARD, WRITE_ZEROES, GET_ID):
        assert disk.do(kind).status == IOERR
        empty = [disk.header(kind, 0), Buffer(disk.room(16), 0), disk.status()]
        assert disk.do_chain(empty).status == IOERR
    survives()


def test_a_header_that_is_cut_short_is_an_error(disk: Disk, survives: Callable[[], None]) -> None:
    for length in (1, 8, 15):
        header = disk.header(OUT, 0)
        assert disk.do_chain([Buffer(header.address, length), disk.status()]).status == IOERR
    assert disk.do_chain([disk.status()]).status == IOERR
    survives()


def test_a_read_into_buffers_that_cannot_be_written_is_an_error(disk: Disk, survives: Callable[[], None]) -> None:
    place = disk.room(512)
    assert disk.do_chain([disk.header(IN, 1), Buffer(place, 512), disk.status()]).status == IOERR
    survives()


def test_a_write_out_of_buffers_meant_to_be_written_is_an_error(disk: Disk, survives: Callable[[], None]) -> None:
    place = disk.room(512)
    assert disk.do_chain([disk.header(OUT, 1), Buffer(place, 512, True), disk.status()]).status == IOERR
    survives()


def test_a_serial_number_needs_room(disk: Disk, survives: Callable[[], None]) -> None:
    assert disk.do(GET_ID, length=19).status == IOERR
    assert disk.do(GET_ID, length=64)[0::2] == (OK, 21)
    survives()


@pytest.mark.parametrize("kind", [DISCARD, WRITE_ZEROES])
@pytest.mark.parametrize(
    ("ranges", "status"),
    [
        (RANGE.pack(0, 0, 0), IOERR),
        (RANGE.pack(SECTORS, 1, 0), IOERR),
        (RANGE.pack(SECTORS - 1, 2, 0), IOERR),
        (RANGE.pack(TOP, 1, 0), IOERR),
        (RANGE.pack(0, 0xFFFFFFFF, 0), IOERR),
        (RANGE.pack(0, 8, 2), UNSUPP),
        (RANGE.pack(0, 8, 1 << 31), UNSUPP),
        (RANGE.pack(0, 8, 0) * 2, UNSUPP),
        (RANGE.pack(0, 8, 0)[:15], IOERR),
        (RANGE.pack(0, 8, 0) + b"x", IOERR),
    ],
    ids=["none", "at-end", "over-end", "wraps", "too-many", "flag", "high-flag", "two", "short", "long"],
)
def test_ranges_are_checked(disk: Disk, survives: Callable[[], None], kind: int, ranges: bytes, status: int) -> None:
    assert disk.do(kind, 0, ranges).status == status
    survives()


def test_unmap_belongs_to_write_zeroes_only(disk: Disk, survives: Callable[[], None]) -> None:
    assert disk.range(DISCARD, 0, 8, UNMAP).status == UNSUPP
    assert disk.range(WRITE_ZEROES, 0, 8, UNMAP).status == OK
    survives()


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_a_read_only_disk_is_never_written(disks: Callable[..., Disk], image: Path, packed: bool) -> None:
    image.write_bytes(b"\x77" * 8192)
    disk = disks(image, "--read-only", "--discard", "--detect-zeroes=unmap", packed=packed)
    assert disk.write(0, b"x" * 512) == IOERR
    assert disk.write(0, bytes(512)) == IOERR
    for kind in (DISCARD, WRITE_ZEROES):
        assert disk.range(kind, 0, 1).status in (IOERR, UNSUPP)
    assert disk.do(FLUSH).status == OK
    assert disk.read(0, 8192) == b"\x77" * 8192
    assert image.read_bytes() == b"\x77" * 8192


@pytest.mark.parametrize(("option", "kind"), [("--direct", DISCARD), ("--read-only", WRITE_ZEROES)])
def test_what_was_not_offered_is_unsupported(disks: Callable[..., Disk], image: Path, option: str, kind: int) -> None:
    assert disks(image, option).range(kind, 0, 8).status == UNSUPP
