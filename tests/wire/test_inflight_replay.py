"""What a new backend makes of the inflight region of a dead one: every request once, and no region can hurt it.

Layouts: vhost-user, "Inflight I/O tracking"; `backends/runtime/inflight.h`.
"""

from __future__ import annotations

import errno
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.blk._blk import ffi, lib
from backends.blk.device import BlkDevice
from tools.paths import ROOT

SIZE = 8
CANARY = b"\xc5" * 64
PACKED_START = 0x8000_8000
SPLIT_HEAD, SPLIT_ENTRY = struct.Struct("=QHHHH"), struct.Struct("=B5xHQ")
PACKED_HEAD, PACKED_ENTRY = struct.Struct("=QHHHHHHBB8x"), struct.Struct("=BxHHHQHHIQ")
RUNTIME = ("virtqueue.c", "virtqueue_split.c", "virtqueue_packed.c", "inflight.c", "guest_memory.c")


def built(name: str, directory: Path) -> Path:
    """A program of this directory, built with the product's options."""
    sources = [ROOT / f"tests/wire/{name}.c", *(ROOT / "backends/runtime" / part for part in RUNTIME)]
    command = ["gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-pthread", "-o", str(directory / name)]
    subprocess.run([*command, *map(str, sources)], check=True)
    return directory / name


@pytest.fixture(scope="session")
def every_instruction(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that lets a backend die after each instruction."""
    return built("inflight_death", tmp_path_factory.mktemp("replay"))


@pytest.mark.parametrize("ring", ["split", "packed"])
@pytest.mark.parametrize(
    "words",
    [
        pytest.param((), id="once"),
        pytest.param(("refill",), id="driver goes on"),
        pytest.param(("again", "refill"), id="dies again", marks=[pytest.mark.soak, pytest.mark.timeout(600)]),
    ],
)
def test_a_request_is_done_once_whatever_instruction_was_the_last(
    every_instruction: Path, ring: str, words: tuple[str, ...]
) -> None:
    run = subprocess.run([every_instruction, ring, *words], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 100


def test_a_region_that_changes_while_it_is_read_leads_nowhere(tmp_path: Path) -> None:
    """A rogue may have handed out, as its region, a file that somebody else still writes to."""
    run = subprocess.run([built("inflight_race", tmp_path), "3000000"], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr


class Ring:
    """A queue of a device that is not running, its ring and its region in memory of this process."""

    def __init__(self, directory: Path) -> None:
        image = directory / "image"
        image.write_bytes(bytes(4096))
        self._device = BlkDevice(os.open(image, os.O_RDWR), {"aio": "off", "queue_size": SIZE})
        self.queue: Any = lib.sc_blk_queue(self._device._blk, 0)
        self.guest = ffi.new("uint8_t[4096]")
        self.queue.size = SIZE
        self.queue.descriptors = self.guest
        self.queue.driver = self.guest + 1024
        self.queue.device = self.guest + 2048
        self._region: Any = None

    def start(self, region: bytes, *, packed: bool = False, used: int = 0) -> int:
        """Start on a region with that content; `used` is the ring's used index. Returns 0 or -errno."""
        self.queue.packed = packed
        ffi.memmove(self.guest + 2048 + 2, struct.pack("=H", used), 2)
        self._region = ffi.new("uint8_t[]", bytes(region) + CANARY)
        lib.sc_vq_set_inflight(self.queue, self._region)
        return int(lib.sc_vq_start(self.queue, PACKED_START if packed else used))

    @property
    def region(self) -> bytes:
        """The region now; nothing behind it may have been written."""
        content = bytes(ffi.buffer(self._region))
        assert content.endswith((CANARY + b"\0", CANARY))
        return content[: content.rindex(CANARY)]

    def close(self) -> None:
        lib.sc_vq_set_inflight(self.queue, ffi.NULL)
        self._device.close()


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[Ring]:
    ring = Ring(tmp_path)
    yield ring
    ring.close()


def size(packed: bool) -> int:
    return int(lib.sc_inflight_size(SIZE, packed))


def split(head: tuple[int, ...], *busy: tuple[int, int], links: dict[int, int] | None = None) -> bytes:
    """A split region: its head, (entry, counter) of what is in flight, `next` of entries."""
    region = bytearray(size(False))
    SPLIT_HEAD.pack_into(region, 0, *head)
    for entry in range(SIZE):
        counter = dict(busy).get(entry)
        SPLIT_ENTRY.pack_into(region, 16 + 16 * entry, counter is not None, (links or {}).get(entry, 0), counter or 0)
    return bytes(region)


def packed_region(head: tuple[int, ...], *entries: tuple[int, ...]) -> bytes:
    region = bytearray(size(True))
    PACKED_HEAD.pack_into(region, 0, *head)
    for index, entry in enumerate(entries):
        PACKED_ENTRY.pack_into(region, 32 + 32 * index, *entry)
    return bytes(region)


def test_a_fresh_region_takes_its_position_from_the_ring(ring: Ring) -> None:
    assert ring.start(bytes(size(False)), used=5) == 0
    assert SPLIT_HEAD.unpack_from(ring.region) == (0, 1, SIZE, 0, 5)


def test_descriptor_0_of_a_ring_that_has_run_is_not_taken_for_done(ring: Ring) -> None:
    """A region made for a running ring: its position is the ring's, not 0, so nothing counts as done since."""
    ring.start(bytes(size(False)), used=5)
    region = bytearray(ring.region)
    SPLIT_ENTRY.pack_into(region, 16, 1, 0, 7)  # descriptor 0 was taken; then the backend died
    assert ring.start(bytes(region), used=5) == 0
    assert SPLIT_ENTRY.unpack_from(ring.region, 16) == (1, 0, 7)


def test_what_was_published_but_not_noted_counts_as_done(ring: Ring) -> None:
    region = split((0, 1, SIZE, 2, 10), (2, 1), (4, 2), (6, 3), links={2: 4})
    assert ring.start(region, used=12) == 0
    assert [SPLIT_ENTRY.unpack_from(ring.region, 16 + 16 * entry)[0] for entry in (2, 4, 6)] == [0, 0, 1]
    assert SPLIT_HEAD.unpack_from(ring.region)[4] == 12


@pytest.mark.parametrize(
    ("region", "used"),
    [
        (split((0, 2, SIZE, 0, 0)), 0),  # a version that nobody has defined
        (split((0, 1, SIZE, 0, 0)), SIZE + 1),  # more done than a ring holds
        (split((0, 1, SIZE, SIZE, 0), (1, 1)), 1),  # the last batch begins outside
        (split((0, 1, SIZE, 1, 0), (1, 1), links={1: 0xFFFF}), 2),  # and goes on there
    ],
)
def test_a_split_region_of_some_other_ring_starts_nothing(ring: Ring, region: bytes, used: int) -> None:
    assert ring.start(region, used=used) == -errno.EPROTO


HEAD = (0, 1, SIZE, 2, 2, 3, 3, 1, 1)


@pytest.mark.parametrize(
    ("head", "entries"),
    [
        ((0, 2, *HEAD[2:]), ()),
        ((*HEAD[:5], SIZE, 3, 1, 1), ()),
        ((*HEAD[:6], SIZE, 1, 1), ()),
        (HEAD, ((1, 0, 0, 0, 1, 0, 0, 0, 0),)),  # a request of no descriptors
        (HEAD, ((1, 0, 0, SIZE + 1, 1, 0, 0, 0, 0),)),  # of more than there are
        (HEAD, ((1, 1, 1, 2, 1, 0, 0, 0, 0), (1, 2, 1, 1, 2, 0, 0, 0, 0))),  # two that share one
        (HEAD, ((1, 0, 0, 2, 1, 0, 0, 0, 0),)),  # a circle
        (HEAD, ((1, 0xFFFF, 0, 2, 1, 0, 0, 0, 0),)),  # out of the region
    ],
)
def test_a_packed_region_of_some_other_ring_starts_nothing(
    ring: Ring, head: tuple[int, ...], entries: tuple[tuple[int, ...], ...]
) -> None:
    assert ring.start(packed_region(head, *entries), packed=True) == -errno.EPROTO


def test_a_region_of_another_size_is_begun_anew(ring: Ring) -> None:
    assert ring.start(split((0, 1, SIZE * 2, 0, 40), (1, 1)), used=3) == 0
    assert SPLIT_HEAD.unpack_from(ring.region) == (0, 1, SIZE, 0, 3)


def test_after_an_orderly_stop_the_base_counts_and_not_the_region(ring: Ring) -> None:
    assert ring.start(bytes(size(True)), packed=True) == 0
    lib.sc_inflight_retire(ring.queue)
    stale = bytearray(ring.region)
    PACKED_HEAD.pack_into(stale, 0, 0, 0, SIZE, 0, 0, 5, 5, 0, 0)
    assert ring.start(bytes(stale), packed=True) == 0
    assert lib.sc_vq_base(ring.queue) == PACKED_START


@settings(max_examples=300, deadline=None)
@given(data=st.data(), packed=st.booleans(), used=st.integers(0, 0xFFFF))
def test_no_region_makes_a_backend_write_outside_of_it(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, packed: bool, used: int
) -> None:
    noise = bytearray(data.draw(st.binary(min_size=size(packed), max_size=size(packed))))
    if data.draw(st.booleans()):  # plausible enough to get past the first check
        struct.pack_into("=HH", noise, 8, 1, SIZE)
    ring = Ring(tmp_path_factory.mktemp("ring"))
    try:
        assert ring.start(bytes(noise), packed=packed, used=used) in (0, -errno.EPROTO)
        assert len(ring.region) == size(packed)
    finally:
        ring.close()
