"""The small devices: a guest that powers off, reboots or reads the clock gets what hardware would do."""

from __future__ import annotations

import pytest

from vmm_core.devices.acpi_pm import CONTROL, ENABLE, POWER_BUTTON, SCI_ENABLE, SLEEP_ENABLE, STATUS, AcpiPm
from vmm_core.devices.cmos import Cmos
from vmm_core.devices.reset_port import ResetPort


class Wires:
    def __init__(self) -> None:
        self.powered_off = 0
        self.sci: list[bool] = []

    def pm(self) -> AcpiPm:
        def power_off() -> None:
            self.powered_off += 1

        return AcpiPm(power_off, self.sci.append)


def test_s5_powers_off_and_other_sleep_types_do_not() -> None:
    wires = Wires()
    pm = wires.pm()
    pm.write(CONTROL, 2, SLEEP_ENABLE | 3 << 10)
    assert wires.powered_off == 0
    pm.write(CONTROL, 2, SLEEP_ENABLE | 5 << 10)
    assert wires.powered_off == 1
    assert not pm.read(CONTROL, 2) & SLEEP_ENABLE


def test_acpi_mode_is_always_on() -> None:
    assert Wires().pm().read(CONTROL, 2) & SCI_ENABLE


def test_the_power_button_interrupts_a_guest_that_listens() -> None:
    wires = Wires()
    pm = wires.pm()
    assert not pm.press_power_button(), "nobody listens yet"
    pm.write(ENABLE, 2, POWER_BUTTON)
    assert pm.press_power_button()
    assert wires.sci[-1:] == [True]
    assert pm.read(STATUS, 2) & POWER_BUTTON
    pm.write(STATUS, 2, POWER_BUTTON)
    assert wires.sci[-1:] == [False]
    assert not pm.read(STATUS, 2) & POWER_BUTTON


def test_only_the_reset_pulse_resets() -> None:
    resets: list[int] = []
    port = ResetPort(lambda: resets.append(1))
    port.write(0, 1, 0xFF)
    assert not resets
    port.write(0, 1, 0xFE)
    assert resets


def test_a_probing_driver_finds_no_keyboard_controller_and_a_reboot_does_not_wait() -> None:
    status = ResetPort(lambda: None).read(0, 1)
    assert status & 1, "an output buffer that never empties: not a controller"
    assert not status & 2, "an input buffer that is ready: no wait before the reset pulse"


@pytest.mark.parametrize(
    ("register", "value"), [(0, 0x56), (2, 0x34), (4, 0x12), (6, 0x02), (7, 0x23), (8, 0x11), (9, 0x26), (0x32, 0x20)]
)
def test_the_clock_shows_utc_in_bcd(register: int, value: int) -> None:
    cmos = Cmos(lambda: 1795437296_000000000)  # 2026-11-23 12:34:56 UTC, a Monday
    cmos.write(0, 1, register)
    assert cmos.read(1, 1) == value


def test_the_clock_is_never_caught_updating() -> None:
    cmos = Cmos(lambda: 0)
    cmos.write(0, 1, 10)
    assert not cmos.read(1, 1) & 0x80


def test_cmos_memory_keeps_what_is_written_and_the_clock_does_not() -> None:
    cmos = Cmos(lambda: 0)
    for register, value in ((0x20, 0xAB), (0, 0x33)):
        cmos.write(0, 1, register)
        cmos.write(1, 1, value)
    cmos.write(0, 1, 0x20)
    assert cmos.read(1, 1) == 0xAB
    cmos.write(0, 1, 0)
    assert cmos.read(1, 1) == 0
