"""One ring as the front-end set it up so far, and whether it may run like that (vhost-user, "Ring states")."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from backends.runtime.device import DeviceError

if TYPE_CHECKING:
    from backends.runtime.memory_map import MemoryMap

PACKED_EVENT = 4  # bytes of a packed ring's driver and device area


class RingAddresses(NamedTuple):
    """User addresses of the three parts."""

    descriptors: int
    used: int
    available: int


class RingState:
    """`num` 0: no size yet; `addresses` None: not set yet; `started` from the first kick descriptor on."""

    def __init__(self) -> None:
        self.num = 0
        self.addresses: RingAddresses | None = None
        self.started = False

    def check_num(self, num: int, limit: int, packed: bool) -> None:
        self.check_stopped("size")
        if not 1 <= num <= limit or (not packed and num & (num - 1)):
            raise DeviceError(f"ring size {num}: a {'number' if packed else 'power of two'} up to {limit} is needed")

    def check_stopped(self, what: str) -> None:
        if self.started:
            raise DeviceError(f"the {what} of a running ring cannot be changed")

    def check_addresses(self, addresses: RingAddresses, memory: MemoryMap, packed: bool) -> None:
        """DeviceError unless each part is aligned and lies whole in one memory region."""
        if not self.num:
            raise DeviceError("ring addresses before the ring's size")
        if self.started and addresses != self.addresses:
            raise DeviceError("the addresses of a running ring cannot be changed")
        for name, address, (length, alignment) in zip(
            RingAddresses._fields, addresses, self._parts(packed), strict=True
        ):
            if address % alignment or not memory.holds(address, length):
                raise DeviceError(f"ring part {name}: {length:#x} bytes at {address:#x} are not in guest memory")

    def check_startable(self, memory: MemoryMap, packed: bool) -> None:
        if self.addresses is None:
            raise DeviceError("a ring without addresses cannot be started")
        self.check_addresses(self.addresses, memory, packed)

    def survives(self, memory: MemoryMap, packed: bool) -> bool:
        """Whether a running ring is still whole in `memory` (a stopped one is checked when it starts)."""
        if not self.started or self.addresses is None:
            return True
        parts = zip(self.addresses, self._parts(packed), strict=True)
        return all(memory.holds(address, length) for address, (length, _) in parts)

    def _parts(self, packed: bool) -> tuple[tuple[int, int], ...]:
        """(length in bytes, alignment) of descriptors, used, available (virtio 2.7, 2.8)."""
        if packed:
            return (16 * self.num, 16), (PACKED_EVENT, 4), (PACKED_EVENT, 4)
        return (16 * self.num, 16), (6 + 8 * self.num, 4), (6 + 2 * self.num, 2)
