"""What the control side keeps of a ring beside `struct sc_virtqueue`."""

from __future__ import annotations


class Ring:
    """What the front-end said of a ring before it started."""

    def __init__(self) -> None:
        self.base = 0
        self.addresses: tuple[int, int, int, int, int] | None = None


def area_lengths(size: int, packed: bool) -> tuple[int, int, int]:
    """Bytes of descriptors, driver area and device area (virtio 2.7, 2.8)."""
    return (16 * size, 4, 4) if packed else (16 * size, 6 + 2 * size, 6 + 8 * size)
