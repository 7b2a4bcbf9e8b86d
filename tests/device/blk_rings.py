"""A driver's side of virtqueues, split and packed (virtio 1.2, 2.7 and 2.8), laid out in a mapping of guest RAM.

Nothing is checked: a test writes also what no honest driver would. Guest addresses are offsets in the mapping.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import mmap
    from collections.abc import Sequence

NEXT, WRITE, INDIRECT = 1, 2, 4
AVAILABLE_FLAG, USED_FLAG = 1 << 7, 1 << 15
DRIVER_AREA, DEVICE_AREA, RING_BYTES = 0x4000, 0x8000, 0x10000
SPLIT, PACKED = struct.Struct("<QIHH"), struct.Struct("<QIHH")
EVENT_ENABLE, EVENT_DISABLE, EVENT_DESC = 0, 1, 2


class Buffer(NamedTuple):
    """One descriptor: guest address, bytes, and whether the device writes it."""

    address: int
    length: int
    writable: bool = False


class Used(NamedTuple):
    """What the device gave back: the number that `add` returned, and the bytes it says it wrote."""

    number: int
    written: int


class Ring:
    """What both kinds share: where the parts are, little-endian fields, indirect tables."""

    def __init__(self, ram: mmap.mmap, base: int, size: int) -> None:
        self.ram = ram
        self.base = base
        self.size = size
        self.driver = base + DRIVER_AREA
        self.device = base + DEVICE_AREA
        self.event_idx = False

    def put16(self, address: int, value: int) -> None:
        self.ram[address : address + 2] = struct.pack("<H", value & 0xFFFF)

    def get16(self, address: int) -> int:
        return int(struct.unpack("<H", self.ram[address : address + 2])[0])

    def write_table(self, table: int, chain: Sequence[Buffer]) -> Buffer:
        """Write an indirect table at `table`; returns what points to it."""
        for index, buffer in enumerate(chain):
            more = NEXT if index + 1 < len(chain) else 0
            flags = (WRITE if buffer.writable else 0) | more
            place = table + 16 * index
            self.ram[place : place + 16] = self.entry(buffer, flags, index + 1)
        return Buffer(table, 16 * len(chain))

    def entry(self, buffer: Buffer, flags: int, following: int) -> bytes:
        """A descriptor of an indirect table."""
        raise NotImplementedError


class SplitRing(Ring):
    """Descriptors at `base`, available ring at `driver`, used ring at `device`."""

    def __init__(self, ram: mmap.mmap, base: int, size: int) -> None:
        super().__init__(ram, base, size)
        self.free = list(range(size))
        self.members: dict[int, list[int]] = {}  # head -> the descriptors of its chain
        self.next_available = 0
        self.next_used = 0

    def entry(self, buffer: Buffer, flags: int, following: int) -> bytes:
        return SPLIT.pack(buffer.address, buffer.length, flags, following)

    def describe(self, index: int, buffer: Buffer, flags: int = 0, following: int = 0) -> None:
        flags |= WRITE if buffer.writable else 0
        self.ram[self.base + 16 * index : self.base + 16 * index + 16] = self.entry(buffer, flags, following)

    def add(self, chain: Sequence[Buffer], table: int = 0) -> int:
        """Make `chain` available; with `table` through an indirect table there. Returns its number."""
        if table:
            chain = [self.write_table(table, chain)]
        taken = [self.free.pop(0) for _ in chain]
        for position, index in enumerate(taken):
            last = position + 1 == len(taken)
            flags = (0 if last else NEXT) | (INDIRECT if table else 0)
            self.describe(index, chain[position], flags, 0 if last else taken[position + 1])
        self.members[taken[0]] = taken
        self.offer(taken[0])
        return taken[0]

    def offer(self, head: int) -> None:
        """Put `head` into the available ring."""
        self.put16(self.driver + 4 + 2 * (self.next_available % self.size), head)
        self.next_available = (self.next_available + 1) & 0xFFFF
        self.put16(self.driver + 2, self.next_available)

    def arm(self) -> None:
        """Ask for an interrupt for whatever comes next."""
        self.put16(self.driver + 4 + 2 * self.size, self.next_used)

    def used_index(self) -> int:
        return self.get16(self.device + 2)

    def take(self) -> list[Used]:
        """What the device gave back since the last look."""
        found: list[Used] = []
        while self.next_used != self.used_index():
            place = self.device + 4 + 8 * (self.next_used % self.size)
            number, written = struct.unpack("<II", self.ram[place : place + 8])
            found.append(Used(number, written))
            self.free += self.members.pop(number, [])
            self.next_used = (self.next_used + 1) & 0xFFFF
        return found


class PackedRing(Ring):
    """Descriptors at `base`, the driver's event suppression at `driver`, the device's at `device`."""

    def __init__(self, ram: mmap.mmap, base: int, size: int) -> None:
        super().__init__(ram, base, size)
        self.next_available = self.next_used = 0
        self.available_wrap = self.used_wrap = True
        self.numbers = list(range(size))
        self.chains: dict[int, int] = {}  # buffer id -> slots it takes

    def entry(self, buffer: Buffer, flags: int, following: int) -> bytes:
        return PACKED.pack(buffer.address, buffer.length, 0, flags & ~NEXT)

    def add(self, chain: Sequence[Buffer], table: int = 0) -> int:
        """Make `chain` available, its first descriptor's flags last; returns its number."""
        if table:
            chain = [self.write_table(table, chain)]
        number = self.numbers.pop(0)
        self.chains[number] = len(chain)
        first = self.base + 16 * self.next_available
        flags_of_first = 0
        for position, buffer in enumerate(chain):
            last = position + 1 == len(chain)
            flags = (0 if last else NEXT) | (WRITE if buffer.writable else 0) | (INDIRECT if table else 0)
            flags |= AVAILABLE_FLAG if self.available_wrap else USED_FLAG
            place = self.base + 16 * self.next_available
            self.ram[place : place + 14] = PACKED.pack(buffer.address, buffer.length, number, 0)[:14]
            if position:
                self.put16(place + 14, flags)
            else:
                flags_of_first = flags
            self._step()
        self.put16(first + 14, flags_of_first)
        return number

    def _step(self) -> None:
        self.next_available += 1
        if self.next_available == self.size:
            self.next_available, self.available_wrap = 0, not self.available_wrap

    def arm(self) -> None:
        """Ask for an interrupt for whatever comes next."""
        if self.event_idx:
            self.put16(self.driver, self.next_used | self.used_wrap << 15)
        self.put16(self.driver + 2, EVENT_DESC if self.event_idx else EVENT_ENABLE)

    def take(self) -> list[Used]:
        """What the device gave back since the last look."""
        found: list[Used] = []
        while True:
            place = self.base + 16 * self.next_used
            _, written, number, flags = PACKED.unpack(self.ram[place : place + 16])
            if not bool(flags & AVAILABLE_FLAG) == bool(flags & USED_FLAG) == self.used_wrap:
                return found
            found.append(Used(number, written))
            self.next_used += self.chains.pop(number)
            if self.next_used >= self.size:
                self.next_used, self.used_wrap = self.next_used - self.size, not self.used_wrap
            self.numbers.append(number)
