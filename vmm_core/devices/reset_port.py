"""The keyboard controller's port 0x64, of which only the reset line exists: writing 0xFE resets the machine."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PORT, LENGTH = 0x64, 1
PULSE_RESET = 0xFE
# Output buffer always full: a driver that probes finds no controller and gives up at once. Input buffer always empty:
# a kernel that reboots through this port does not wait 65,536 reads for it first.
STATUS = 0xFD


class ResetPort:
    def __init__(self, reset: Callable[[], None]) -> None:
        self._reset = reset

    def read(self, _offset: int, _size: int) -> int:
        return STATUS

    def write(self, _offset: int, _size: int, value: int) -> None:
        if value & 0xFF == PULSE_RESET:
            self._reset()
