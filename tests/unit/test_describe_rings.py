"""Where rings stand, as people are told: a packed ring's position is read out of what its backend notes."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from vmm_core.vhost import rings
from vmm_core.vhost.describe import describe
from vmm_core.virtio.device import QueueSetup

SIZE = 16
PACKED = 1 << rings.F_RING_PACKED


class Region:
    """The inflight region of two packed rings, as a backend writes it."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("inflight")
        os.ftruncate(self.fd, 4096)
        self.region = rings.Inflight(self.fd, 4096, 0, queues=2, queue_size=SIZE)

    def note(self, used: int, wrap: int, *slots: int, version: int = 1) -> None:
        """Of the second ring: its position and how many slots each chain in flight has."""
        start = self.region.stride(rings.PACKED_ENTRY)
        os.pwrite(self.fd, struct.pack("=QHHHHHHBB", 0, version, SIZE, 0, 0, used, used, wrap, wrap), start)
        for entry, count in enumerate(slots, 1):
            os.pwrite(self.fd, struct.pack("=BxHHH", 1, 0, 0, count), start + entry * rings.PACKED_ENTRY)

    def told(self) -> dict[str, Any]:
        queue = QueueSetup(index=1, size=SIZE, descriptors=0, driver_area=0, device_area=0, kick_fd=-1, call_fd=-1)
        ring_set: Any = SimpleNamespace(queues=[queue], inflight=self.region, memory=())
        queues: Any = describe(None, ring_set, PACKED)["queues"]
        return {name: value for name, value in queues[0].items() if name.startswith("last-")}


@pytest.fixture
def region() -> Iterator[Region]:
    made = Region()
    yield made
    made.region.close()


@pytest.mark.parametrize(
    ("used", "wrap", "slots", "available", "available_wrap"),
    [(3, 1, (), 3, 1), (3, 1, (2, 3), 8, 1), (14, 1, (1, 4), 3, 0), (0, 0, (16,), 0, 1)],
)
def test_what_is_in_flight_lies_between_the_two_positions(
    region: Region, used: int, wrap: int, slots: tuple[int, ...], available: int, available_wrap: int
) -> None:
    region.note(used, wrap, *slots)
    assert region.told() == {
        "last-avail": available,
        "last-avail-wrap": available_wrap,
        "last-used": used,
        "last-used-wrap": wrap,
    }


def test_a_region_that_nobody_has_used_says_nothing(region: Region) -> None:
    region.note(3, 1, version=0)
    assert region.told() == {}


def test_a_region_full_of_nonsense_is_only_told_wrongly(region: Region) -> None:
    os.pwrite(region.fd, b"\1" + bytes(range(255, 0, -1)) * 16, 0)
    os.pwrite(region.fd, bytes([1, 0, 255, 255, 255, 255, 255, 255] * 512), 0)
    assert 0 <= region.told()["last-avail"] < SIZE
