"""ACPI's PM1 event and control blocks (ACPI 6.4, 4.8.3): soft power-off by S5 and the fixed power button."""

from __future__ import annotations

from _thread import allocate_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

STATUS, ENABLE, CONTROL = 0, 2, 4
LENGTH = 6
POWER_BUTTON = 1 << 8  # the same bit in status and enable
SCI_ENABLE, SLEEP_ENABLE = 1 << 0, 1 << 13
SLEEP_TYPE_SHIFT, SLEEP_TYPE_MASK = 10, 7
S5 = 5


class AcpiPm:
    """Six bytes of registers: PM1_STS, PM1_EN, PM1_CNT. `set_sci` drives the level-triggered SCI line."""

    def __init__(self, power_off: Callable[[], None], set_sci: Callable[[bool], None]) -> None:
        self._power_off = power_off
        self._set_sci = set_sci
        self._registers = bytearray(LENGTH)
        self._lock = allocate_lock()

    def press_power_button(self) -> bool:
        """Tell the guest; False when it has no handler for the button (then nothing would happen)."""
        with self._lock:
            if not self._load(ENABLE) & POWER_BUTTON:
                return False
            self._store(STATUS, self._load(STATUS) | POWER_BUTTON)
            self._update_sci()
        return True

    def read(self, offset: int, size: int) -> int:
        with self._lock:
            value = int.from_bytes(self._registers[offset : offset + size], "little")
        return value | SCI_ENABLE if offset <= CONTROL < offset + size and offset == CONTROL else value

    def write(self, offset: int, size: int, value: int) -> None:
        with self._lock:
            for index, byte in enumerate(value.to_bytes(size, "little")):
                self._write_byte(offset + index, byte)
            self._update_sci()
            control = self._load(CONTROL)
            self._store(CONTROL, control & ~SLEEP_ENABLE)  # write-only bit
        if control & SLEEP_ENABLE and control >> SLEEP_TYPE_SHIFT & SLEEP_TYPE_MASK == S5:
            self._power_off()

    def _write_byte(self, offset: int, byte: int) -> None:
        if offset < ENABLE:
            self._registers[offset] &= ~byte & 0xFF  # status: write one to clear
        elif offset < LENGTH:
            self._registers[offset] = byte

    def _update_sci(self) -> None:
        self._set_sci(bool(self._load(STATUS) & self._load(ENABLE) & POWER_BUTTON))

    def _load(self, offset: int) -> int:
        return self._registers[offset] | self._registers[offset + 1] << 8

    def _store(self, offset: int, value: int) -> None:
        self._registers[offset : offset + 2] = (value & 0xFFFF).to_bytes(2, "little")
