"""A driver and its inflight region (vhost-user, "Inflight I/O tracking"), which outlive the backends that they meet."""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

from ipc import vhost_user as wire
from tests.device.blk_driver import GET_ID, OK, Backend, Disk

if TYPE_CHECKING:
    from collections.abc import Callable

PACKED_BASE = 0x80008000  # of a packed ring: both positions 0, both wrap counters 1


class Survivor:
    """`start` makes a backend; the first one is started at once and given nothing but memory."""

    def __init__(self, start: Callable[[], Backend], packed: bool, size: int = 64, event_idx: bool = False) -> None:
        self._start = start
        self.packed = packed
        self.disk = Disk(start(), packed=packed, size=size, event_idx=event_idx)
        self.layout, (self.fd,) = self.disk.front.call_with_fds(wire.GET_INFLIGHT_FD, 0, 0, 1, size)
        self.region = mmap.mmap(self.fd, self.layout[0])
        self.used: dict[tuple[int, int], int] = {}

    def kill(self) -> None:
        self.disk.backend.kill()
        self.disk.front.close()

    def revive(self, base: int) -> bool:
        """A new backend takes over; whether it could make something of the region."""
        self.disk.connect(self._start())
        return self.hand_over(base)

    def hand_over(self, base: int) -> bool:
        assert self.disk.front.acknowledged(wire.SET_INFLIGHT_FD, *self.layout, fds=[self.fd])
        return self.disk.start_ring(0, base)

    def ends_even(self) -> bool:
        """Whether the ring is where it must be when everything was done once: nothing is left, nothing came twice."""
        assert self.disk.do(GET_ID, length=20, indirect=True).status == OK
        assert not self.disk.collect()
        base = self.disk.front.call(wire.GET_VRING_BASE, 0, 0)[1]
        ring = self.disk.rings[0]
        here = ring.next_available | (getattr(ring, "available_wrap", 0) << 15)
        return bool(base == (here | here << 16 if self.packed else here))

    def close(self) -> None:
        self.region.close()
        os.close(self.fd)
        self.disk.close()
