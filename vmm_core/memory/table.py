"""The guest-physical map of RAM, as plain data: what accelerators, transports and backends are told about memory."""

from __future__ import annotations

from vmm_core.config.record import Record

PAGE_SIZE = 4096


class RamRegion(Record):
    """`size` bytes of RAM at guest-physical `gpa`: byte `offset` of `fd`, mapped in the core at `host_address`."""

    gpa: int
    size: int
    fd: int
    offset: int
    host_address: int

    @property
    def end(self) -> int:
        """First guest-physical address after the region."""
        return self.gpa + self.size


def split_around_hole(size: int, hole_start: int, hole_end: int) -> list[tuple[int, int, int]]:
    """Lay `size` bytes of RAM around a hole; returns (gpa, size, offset in the file) for each piece."""
    low = min(size, hole_start)
    pieces = [(0, low, 0)]
    if size > low:
        pieces.append((hole_end, size - low, low))
    return pieces
