"""What a front-end says about guest memory, checked: sizes, overlaps, and that each file is as long as claimed.

vhost-user, "Memory access". Addresses and sizes in bytes. The mapping itself is the device's (in C).
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from backends.runtime.device import DeviceError

MAX_REGIONS = 509  # as many slots as KVM has
PAGE = 4096
END = 1 << 64


class Region(NamedTuple):
    """A region as the front-end names it."""

    gpa: int
    size: int
    user_address: int
    offset: int

    def holds(self, user_address: int, length: int) -> bool:
        """Whether `length` bytes at this user address lie whole in the region."""
        start = user_address - self.user_address
        return start >= 0 and start + length <= self.size


class MemoryMap:
    """The regions in force."""

    def __init__(self) -> None:
        self.regions: list[Region] = []

    @property
    def end(self) -> int:
        """First guest-physical address after all regions."""
        return max((region.gpa + region.size for region in self.regions), default=0)

    def holds(self, user_address: int, length: int) -> bool:
        """Whether one region holds all of these bytes: what crosses a region's end or a hole is refused."""
        return any(region.holds(user_address, length) for region in self.regions)

    def find(self, gpa: int, size: int, user_address: int) -> Region:
        """The region with exactly this identity; DeviceError if there is none."""
        for region in self.regions:
            if region[:3] == (gpa, size, user_address):
                return region
        raise DeviceError(f"no memory region of {size:#x} bytes at {gpa:#x}")


def checked(regions: list[Region], fds: list[int]) -> list[Region]:
    """Return `regions` if they can all be in force together, backed by `fds`; DeviceError says what is wrong."""
    if len(regions) > MAX_REGIONS:
        raise DeviceError(f"{len(regions)} memory regions, at most {MAX_REGIONS} are possible")
    for region in regions:
        _check_numbers(region)
    _check_overlap("guest-physical", [(region.gpa, region.size) for region in regions])
    _check_overlap("user", [(region.user_address, region.size) for region in regions])
    for region, fd in zip(regions, fds, strict=False):
        check_file(fd, region.offset, region.size, "memory region")
    return regions


def check_file(fd: int, offset: int, size: int, what: str) -> None:
    """DeviceError unless `size` > 0 bytes at `offset` exist in the file `fd`: a mapping past its end raises SIGBUS."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise DeviceError(f"{what}: the descriptor is not of a file or memfd")
    if size == 0 or offset % PAGE or offset + size > status.st_size:
        raise DeviceError(f"{what}: {size:#x} bytes at {offset:#x} of a file of {status.st_size:#x} bytes")


def _check_numbers(region: Region) -> None:
    if region.size == 0 or region.size % PAGE or region.gpa % PAGE or region.user_address % PAGE:
        raise DeviceError(f"memory region at {region.gpa:#x}: {region.size:#x} bytes, not whole pages")
    if max(region.gpa, region.user_address) + region.size > END:
        raise DeviceError(f"memory region at {region.gpa:#x}: {region.size:#x} bytes run over the end of addresses")


def _check_overlap(kind: str, spans: list[tuple[int, int]]) -> None:
    end = 0
    for start, size in sorted(spans):
        if start < end:
            raise DeviceError(f"memory regions overlap at {kind} address {start:#x}")
        end = start + size
