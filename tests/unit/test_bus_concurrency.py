"""vCPU threads ring doorbells while the main thread adds and removes them: nothing lost, nothing rung after removal."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from vmm_core._native import ffi, lib

READERS = 4


@pytest.fixture
def bus() -> Iterator[Any]:
    handle = lib.sc_bus_new()
    yield handle
    lib.sc_bus_free(handle)


def write_access(address: int, value: int) -> Any:
    return ffi.new("struct sc_access *", {"address": address, "size": 4, "data": value, "is_write": 1})


class Ringers:
    """Threads that write to one register until told to stop."""

    def __init__(self, bus: Any, address: int, value: int = 0) -> None:
        self.written = 0
        self._stop = False
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(bus, address, value)) for _ in range(READERS)]
        for thread in self._threads:
            thread.start()

    def _run(self, bus: Any, address: int, value: int) -> None:
        access, count = write_access(address, value), 0
        while not self._stop:
            lib.sc_bus_access(bus, access)
            count += 1
        with self._lock:
            self.written += count

    def stop(self) -> None:
        self._stop = True
        for thread in self._threads:
            thread.join()


def test_no_ring_is_lost_while_other_doorbells_come_and_go(bus: Any) -> None:
    steady, passing = (os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2))
    assert lib.sc_bus_add_doorbell(bus, False, 0x1050, 4, False, 0, steady) == 0
    ringers = Ringers(bus, 0x1050)
    for round_number in range(2000):
        assert lib.sc_bus_add_doorbell(bus, False, 0x1050, 4, False, 1 + round_number % 7, passing) == 0
        assert lib.sc_bus_remove_doorbell(bus, False, 0x1050, False, 1 + round_number % 7) == 0
    ringers.stop()
    assert os.eventfd_read(steady) == ringers.written
    os.close(steady)
    os.close(passing)


def test_a_removed_doorbells_descriptor_may_be_closed_at_once(bus: Any) -> None:
    """A late ring would hit whatever got the number next; the pipes' readers would see it."""
    ringers = Ringers(bus, 0x2050)
    for _ in range(500):
        event = os.eventfd(0, os.EFD_NONBLOCK)
        assert lib.sc_bus_add_doorbell(bus, False, 0x2050, 4, True, 0, event) == 0
        assert lib.sc_bus_remove_doorbell(bus, False, 0x2050, True, 0) == 0
        os.close(event)
        reader, writer = os.pipe2(os.O_NONBLOCK)
        with pytest.raises(BlockingIOError):
            os.read(reader, 8)
        os.close(reader)
        os.close(writer)
    ringers.stop()


def test_reset_storms_do_not_make_the_table_grow(bus: Any) -> None:
    event = os.eventfd(0, os.EFD_NONBLOCK)

    def storm(rounds: int) -> None:
        for _ in range(rounds):
            lib.sc_bus_add_doorbell(bus, False, 0x1050, 4, True, 0, event)
            lib.sc_bus_add_cold(bus, False, 0x4000, 0x1000)
            lib.sc_bus_remove_doorbell(bus, False, 0x1050, True, 0)
            lib.sc_bus_remove(bus, False, 0x4000)

    storm(1000)
    before = resident_pages()
    storm(50_000)
    assert resident_pages() - before < 256
    os.close(event)


def resident_pages() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1])


def test_writers_on_several_threads_keep_the_table_consistent(bus: Any) -> None:
    failures: list[int] = []

    def churn(base: int) -> None:
        for _ in range(500):
            failures.append(lib.sc_bus_add_cold(bus, False, base, 0x100))
            failures.append(lib.sc_bus_remove(bus, False, base))

    threads = [threading.Thread(target=churn, args=(0x1000 * number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(failures) == {0}
