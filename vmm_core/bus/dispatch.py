"""The Python half of address decode: cold accesses, which the bus in C did not answer, go to their device."""

from __future__ import annotations

from vmm_core._native import lib
from vmm_core.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    class IoDevice(Protocol):
        """A device's registers. Offsets are from the range's base; sizes are 1, 2, 4 or 8 bytes; values little-endian.

        Called on vCPU threads, several at once: a device with state locks it.
        """

        def read(self, offset: int, size: int) -> int: ...

        def write(self, offset: int, size: int, value: int) -> None: ...


class Bus:
    """PIO and MMIO ranges of one VM. `handle` is the C side (`struct sc_bus *`) that accelerators are given."""

    def __init__(self) -> None:
        self.handle = lib.sc_bus_new()
        if not self.handle:
            raise MemoryError("sc_bus_new")
        self._ranges: tuple[list[tuple[int, int, IoDevice]], ...] = ([], [])

    def add(self, *, pio: bool, base: int, length: int, device: IoDevice) -> None:
        """Send cold accesses in [base, base + length) to `device`."""
        check(lib.sc_bus_add_cold(self.handle, pio, base, length), f"{'I/O port' if pio else 'MMIO'} range {base:#x}")
        self.add_handler(pio=pio, base=base, length=length, device=device)

    def add_handler(self, *, pio: bool, base: int, length: int, device: IoDevice) -> None:
        """Like `add`, for a range that C already knows and answers in part (virtio-mmio)."""
        self._ranges[pio].append((base, base + length, device))

    def access(self, access: Any) -> None:
        """Answer the `struct sc_access` of a cold exit: a read's value goes into `access.data`."""
        address, size = access.address, access.size
        for base, end, device in self._ranges[access.is_pio]:
            if base <= address < end:
                if access.is_write:
                    device.write(address - base, size, access.data)
                else:
                    access.data = device.read(address - base, size) & ((1 << 8 * size) - 1)
                return
        if not access.is_write:
            access.data = (1 << 8 * size) - 1

    def close(self) -> None:
        lib.sc_bus_free(self.handle)
        self.handle = None


def check(result: int, what: str) -> int:
    """Turn a C function's -errno into a VmmError that names `what`; returns a non-negative result unchanged."""
    if result < 0:
        import os

        raise VmmError(f"{what}: {os.strerror(-result)}")
    return result
