"""Address decode: each access reaches the one place that answers it, and ambiguous registrations are refused."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Any

import pytest

from vmm_core._native import ffi, lib

MMIO, PIO = False, True


@pytest.fixture
def bus() -> Iterator[Any]:
    handle = lib.sc_bus_new()
    yield handle
    lib.sc_bus_free(handle)


@pytest.fixture
def event() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    yield fd
    os.close(fd)


def read(bus: Any, pio: bool, address: int, size: int) -> int | None:
    """The value, or None when the access is cold."""
    access = ffi.new("struct sc_access *", {"address": address, "size": size, "is_pio": pio})
    return int(access.data) if lib.sc_bus_access(bus, access) else None


def write(bus: Any, pio: bool, address: int, size: int, value: int) -> bool:
    """True when it was answered in C."""
    fields = {"address": address, "size": size, "data": value, "is_write": 1, "is_pio": pio}
    return bool(lib.sc_bus_access(bus, ffi.new("struct sc_access *", fields)))


def rings(event: int) -> int:
    try:
        return os.eventfd_read(event)
    except BlockingIOError:
        return 0


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_unclaimed_reads_are_all_ones_of_the_accesss_width(bus: Any, size: int) -> None:
    assert read(bus, MMIO, 0xD000_0000, size) == (1 << 8 * size) - 1
    assert read(bus, PIO, 0xCF8, size) == (1 << 8 * size) - 1


def test_unclaimed_writes_never_reach_python(bus: Any) -> None:
    lib.sc_bus_add_cold(bus, PIO, 0x70, 2)
    assert write(bus, PIO, 0x80, 1, 0x55)
    assert write(bus, MMIO, 0xFFFF_FFFF_FFFF_FFF8, 8, 1)


def test_a_cold_range_is_cold_from_its_first_to_its_last_byte(bus: Any) -> None:
    assert lib.sc_bus_add_cold(bus, MMIO, 0x1000, 0x100) == 0
    cold = {address: read(bus, MMIO, address, 1) is None for address in (0xFFF, 0x1000, 0x10FF, 0x1100)}
    assert cold == {0xFFF: False, 0x1000: True, 0x10FF: True, 0x1100: False}
    assert not write(bus, MMIO, 0x1080, 4, 0)


def test_ports_and_memory_are_separate_spaces(bus: Any) -> None:
    assert lib.sc_bus_add_cold(bus, PIO, 0x600, 8) == 0
    assert read(bus, PIO, 0x600, 2) is None
    assert read(bus, MMIO, 0x600, 2) == 0xFFFF


@pytest.mark.parametrize(("base", "length"), [(0x1000, 1), (0xFFF, 2), (0x10FF, 16), (0x0, 0x10000), (0x1010, 4)])
def test_overlapping_ranges_are_refused(bus: Any, base: int, length: int) -> None:
    assert lib.sc_bus_add_cold(bus, MMIO, 0x1000, 0x100) == 0
    assert lib.sc_bus_add_cold(bus, MMIO, base, length) == -errno.EEXIST
    assert lib.sc_bus_add_cold(bus, MMIO, 0x1100, 0x10) == 0
    assert lib.sc_bus_add_cold(bus, MMIO, 0xF00, 0x100) == 0


@pytest.mark.parametrize(
    ("pio", "base", "length"),
    [(MMIO, 0x1000, 0), (MMIO, (1 << 64) - 1, 2), (PIO, 0xFFFF, 2), (PIO, 0x10000, 1)],
)
def test_ranges_that_do_not_fit_their_space_are_refused(bus: Any, pio: bool, base: int, length: int) -> None:
    assert lib.sc_bus_add_cold(bus, pio, base, length) == -errno.EINVAL


def test_the_last_byte_of_each_space_can_be_claimed(bus: Any) -> None:
    assert lib.sc_bus_add_cold(bus, MMIO, (1 << 64) - 1, 1) == 0
    assert lib.sc_bus_add_cold(bus, PIO, 0xFFFF, 1) == 0
    assert read(bus, MMIO, (1 << 64) - 1, 1) is None
    assert read(bus, PIO, 0xFFFF, 1) is None


def test_a_removed_range_is_unclaimed_and_can_be_claimed_again(bus: Any) -> None:
    assert lib.sc_bus_add_cold(bus, PIO, 0x3F8, 8) == 0
    assert lib.sc_bus_remove(bus, PIO, 0x3F9) == -errno.ENOENT
    assert lib.sc_bus_remove(bus, PIO, 0x3F8) == 0
    assert lib.sc_bus_remove(bus, PIO, 0x3F8) == -errno.ENOENT
    assert read(bus, PIO, 0x3F8, 1) == 0xFF
    assert lib.sc_bus_add_cold(bus, PIO, 0x3F8, 8) == 0


def test_every_one_of_many_ranges_is_found(bus: Any) -> None:
    bases = [(number * 7919) % 1000 * 0x200 for number in range(1000)]
    for base in bases:
        assert lib.sc_bus_add_cold(bus, MMIO, base, 0x100) == 0
    assert all(read(bus, MMIO, base + 0xFF, 1) is None for base in bases)
    assert all(read(bus, MMIO, base + 0x100, 1) == 0xFF for base in bases)


def test_a_doorbell_rings_for_its_value_and_width_only(bus: Any, event: int) -> None:
    lib.sc_bus_add_cold(bus, MMIO, 0x1000, 0x200)
    assert lib.sc_bus_add_doorbell(bus, MMIO, 0x1050, 4, False, 3, event) == 0
    answered = [write(bus, MMIO, 0x1050, size, value) for size, value in ((4, 2), (4, 3), (2, 3), (4, 3), (8, 3))]
    assert answered == [False, True, False, True, False]
    assert rings(event) == 2
    assert read(bus, MMIO, 0x1050, 4) is None


def test_a_doorbell_without_value_and_width_rings_for_everything(bus: Any, event: int) -> None:
    assert lib.sc_bus_add_doorbell(bus, PIO, 0xC050, 0, True, 0, event) == 0
    assert all(write(bus, PIO, 0xC050, size, value) for size, value in ((1, 0), (2, 7), (4, 1 << 31)))
    assert rings(event) == 3


def test_each_queue_of_a_device_has_its_own_doorbell(bus: Any) -> None:
    events = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(64)]
    for index in reversed(range(64)):
        assert lib.sc_bus_add_doorbell(bus, MMIO, 0x1050, 4, False, index, events[index]) == 0
    for index in range(64):
        for _ in range(index):
            write(bus, MMIO, 0x1050, 4, index)
    assert [rings(event) for event in events] == list(range(64))
    for event in events:
        os.close(event)


def test_a_full_doorbell_counter_does_not_block_the_vcpu(bus: Any, event: int) -> None:
    os.eventfd_write(event, (1 << 64) - 2)
    lib.sc_bus_add_doorbell(bus, MMIO, 0x1050, 4, True, 0, event)
    assert write(bus, MMIO, 0x1050, 4, 0)


def test_a_backend_that_makes_a_full_doorbell_blocking_does_not_block_the_vcpu(bus: Any, event: int) -> None:
    """It shares the open file: O_NONBLOCK and the counter are in its hands, too."""
    lib.sc_bus_add_doorbell(bus, MMIO, 0x1050, 4, True, 0, event)
    os.eventfd_write(event, 2**64 - 2)
    os.set_blocking(event, True)
    assert write(bus, MMIO, 0x1050, 4, 7)
    os.eventfd_read(event)
    assert write(bus, MMIO, 0x1050, 4, 7)
    assert os.eventfd_read(event) == 1


def test_the_same_doorbell_twice_is_refused_and_a_removed_one_is_silent(bus: Any, event: int) -> None:
    add, remove = lib.sc_bus_add_doorbell, lib.sc_bus_remove_doorbell
    assert add(bus, MMIO, 0x1050, 4, False, 1, event) == 0
    assert add(bus, MMIO, 0x1050, 4, False, 1, event) == -errno.EEXIST
    assert add(bus, MMIO, 0x1050, 4, True, 0, event) == 0
    assert remove(bus, MMIO, 0x1050, False, 2) == -errno.ENOENT
    assert remove(bus, MMIO, 0x1050, False, 1) == 0
    assert remove(bus, MMIO, 0x1050, True, 0) == 0
    assert remove(bus, MMIO, 0x1050, True, 0) == -errno.ENOENT
    assert write(bus, MMIO, 0x1050, 4, 1)
    assert rings(event) == 0


@pytest.mark.parametrize(("size", "fd"), [(3, 0), (16, 0), (4, -1)])
def test_impossible_doorbells_are_refused(bus: Any, size: int, fd: int) -> None:
    assert lib.sc_bus_add_doorbell(bus, MMIO, 0x1050, size, True, 0, fd) == -errno.EINVAL


def test_virtio_interrupt_registers_are_answered_without_python(bus: Any) -> None:
    state = ffi.new("uint32_t *")
    assert lib.sc_bus_add_virtio_mmio(bus, 0x1000, state) == 0
    assert read(bus, MMIO, 0x1060, 4) == 1
    state[0] = 2
    assert read(bus, MMIO, 0x1060, 4) == 3
    assert write(bus, MMIO, 0x1064, 4, 1)
    assert state[0] == 2
    assert write(bus, MMIO, 0x1064, 4, 3)
    assert (state[0], read(bus, MMIO, 0x1060, 4)) == (0, 1)


@pytest.mark.parametrize(("offset", "size"), [(0x00, 4), (0x50, 4), (0x60, 1), (0x100, 8), (0x1FC, 4), (0x64, 4)])
def test_other_virtio_registers_are_cold(bus: Any, offset: int, size: int) -> None:
    lib.sc_bus_add_virtio_mmio(bus, 0x1000, ffi.new("uint32_t *"))
    assert read(bus, MMIO, 0x1000 + offset, size) is None


def test_an_interrupt_acknowledged_by_a_byte_write_is_left_to_python(bus: Any) -> None:
    state = ffi.new("uint32_t *", 2)
    lib.sc_bus_add_virtio_mmio(bus, 0x1000, state)
    assert not write(bus, MMIO, 0x1064, 1, 2)
    assert state[0] == 2


def test_a_wide_port_access_reaches_consecutive_uart_registers(bus: Any) -> None:
    uart = lib.sc_uart_new(ffi.NULL, 4, -1)
    assert lib.sc_bus_add_uart(bus, PIO, 0x3F8, uart) == 0
    assert write(bus, PIO, 0x3FE, 2, 0xAB00)  # MSR (read-only), SCR
    assert read(bus, PIO, 0x3FF, 1) == 0xAB
    assert read(bus, PIO, 0x3FE, 4) == 0xFFFF_ABB0
    lib.sc_bus_remove(bus, PIO, 0x3F8)
    lib.sc_uart_free(uart)
