"""The CMOS clock (MC146818): ports 0x70 and 0x71, the host's UTC time, no alarms, a little non-volatile memory."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PORT, LENGTH = 0x70, 2
SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR = 0, 2, 4, 6, 7, 8, 9
STATUS_A, STATUS_B, STATUS_C, STATUS_D, CENTURY = 10, 11, 12, 13, 0x32
DIVIDER_32KHZ, MODE_24_HOURS, MODE_BINARY, RAM_VALID = 0x26, 0x02, 0x04, 0x80


class Cmos:
    def __init__(self, time_ns: Callable[[], int]) -> None:
        self._time_ns = time_ns
        self._index = 0
        self._memory = bytearray(128)
        self._memory[STATUS_A] = DIVIDER_32KHZ
        self._memory[STATUS_B] = MODE_24_HOURS
        self._memory[STATUS_D] = RAM_VALID

    def read(self, offset: int, _size: int) -> int:
        if offset == 0:
            return 0xFF  # the index register is write-only
        now = self._time().get(self._index)
        if now is None:
            return self._memory[self._index]
        return now if self._memory[STATUS_B] & MODE_BINARY else now // 10 << 4 | now % 10

    def write(self, offset: int, _size: int, value: int) -> None:
        if offset == 0:
            self._index = value & 0x7F
        elif self._index not in (STATUS_C, STATUS_D) and self._index not in self._time():
            # The guest's writes to the clock itself are ignored: the host owns the time.
            self._memory[self._index] = value & 0xFF

    def _time(self) -> dict[int, int]:
        now = time.gmtime(self._time_ns() // 1_000_000_000)
        return {
            SECONDS: min(now.tm_sec, 59),
            MINUTES: now.tm_min,
            HOURS: now.tm_hour,
            WEEKDAY: (now.tm_wday + 1) % 7 + 1,
            DAY: now.tm_mday,
            MONTH: now.tm_mon,
            YEAR: now.tm_year % 100,
            CENTURY: now.tm_year // 100,
        }
