"""Guest memory for loader tests: a bytearray with GuestMemory's interface."""

from __future__ import annotations

from vmm_core.errors import VmmError
from vmm_core.memory.guest_memory import GuestMemory
from vmm_core.memory.table import RamRegion


class FakeMemory(GuestMemory):
    def __init__(self, size: int = 128 << 20) -> None:  # the real one's would map memory
        self.size = size
        self.data = bytearray(size)
        self.regions = (RamRegion(gpa=0, size=size, fd=-1, offset=0, host_address=0),)

    def _check(self, gpa: int, length: int) -> None:
        if gpa < 0 or gpa + length > self.size:
            raise VmmError(f"{length:#x} bytes at {gpa:#x} do not lie in guest RAM")

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        self._check(gpa, len(data))
        self.data[gpa : gpa + len(data)] = data

    def read(self, gpa: int, length: int) -> bytes:
        self._check(gpa, length)
        return bytes(self.data[gpa : gpa + length])

    def view(self, gpa: int, length: int) -> memoryview:
        self._check(gpa, length)
        return memoryview(self.data)[gpa : gpa + length]

    def end_of_low_ram(self) -> int:
        return self.size
