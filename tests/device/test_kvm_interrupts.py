"""Doorbells and interrupts that pass the core by (ioeventfd, irqfd), and the lines that emulated devices drive."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from tests.deadlines import Deadline
from tests.device.kvm_guest import (
    COUNTER,
    DONE,
    HOLE,
    STORE,
    TinyGuest,
    eax,
    ebx,
    needs_kvm,
    repeat,
    route_line,
    wait_for_counter,
)
from vmm_core._native import ffi, lib
from vmm_core.errors import VmmError

pytestmark = needs_kvm
DOORBELL = HOLE + 0x50
READY = 0x11  # a cold port: the guest waits for interrupts from here on


@pytest.fixture
def event() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    yield fd
    os.close(fd)


def ringing(times: int, value: int = 0, size: int = 4) -> TinyGuest:
    return TinyGuest(eax(value) + ebx(DOORBELL) + repeat(times, STORE[size]) + DONE)


def test_a_doorbell_rings_without_leaving_the_kernel(event: int) -> None:
    guest = ringing(1000, value=1)
    guest.vm.add_doorbell(DOORBELL, 4, 1, event)
    guest.run_to_end()
    assert os.eventfd_read(event) == 1000
    assert guest.exits[0].run_count == 1
    guest.close()


@pytest.mark.parametrize(("value", "size"), [(2, 4), (1, 2)])
def test_a_doorbell_of_another_value_or_width_is_an_ordinary_access(event: int, value: int, size: int) -> None:
    guest = ringing(1, value=value, size=size)
    guest.cold(False, HOLE, 0x200)
    guest.vm.add_doorbell(DOORBELL, 4, 1, event)
    assert guest.run() == lib.SC_EXIT_COLD
    assert guest.access() == (False, True, DOORBELL, size, value)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(event)
    guest.close()


def test_a_doorbell_for_every_width_and_value(event: int) -> None:
    guest = ringing(3, value=77, size=2)
    guest.vm.add_doorbell(DOORBELL, 0, None, event)
    guest.run_to_end()
    assert os.eventfd_read(event) == 3
    guest.close()


def test_a_removed_doorbell_is_an_ordinary_access_again(event: int) -> None:
    guest = ringing(1)
    guest.cold(False, HOLE, 0x200)
    guest.vm.add_doorbell(DOORBELL, 4, 0, event)
    guest.vm.remove_doorbell(DOORBELL, 4, 0, event)
    assert guest.run() == lib.SC_EXIT_COLD
    guest.close()


def test_a_doorbell_that_cannot_be_registered_is_named(event: int) -> None:
    guest = ringing(1)
    guest.vm.add_doorbell(DOORBELL, 4, 0, event)
    with pytest.raises(VmmError, match=r"KVM_IOEVENTFD \(add 0xd0000050, value 0\) failed: File exists"):
        guest.vm.add_doorbell(DOORBELL, 4, 0, event)
    with pytest.raises(VmmError, match=r"KVM_IOEVENTFD \(remove"):
        guest.vm.remove_doorbell(DOORBELL, 4, 1, event)
    guest.close()


def counting_guest(gsi: int, interrupts: int) -> TinyGuest:
    """Stands at its READY port, then sleeps until the interrupts have come."""
    code = route_line(gsi) + b"\xe6" + bytes([READY]) + wait_for_counter(interrupts, halted=True) + DONE
    guest = TinyGuest(code)
    guest.cold(True, READY, 1)
    assert guest.run() == lib.SC_EXIT_COLD
    assert guest.access()[2] == READY
    return guest


def run_in_thread(guest: TinyGuest) -> threading.Thread:
    thread = threading.Thread(target=guest.run_to_end)
    thread.start()
    return thread


def await_counter(guest: TinyGuest, value: int) -> None:
    deadline = Deadline(20)
    while guest.word(COUNTER) < value:
        assert deadline.left(), f"interrupt {value} was lost"
        os.sched_yield()


def test_every_irqfd_signal_reaches_a_sleeping_guest(event: int) -> None:
    guest = counting_guest(5, 500)
    guest.vm.add_irqfd(5, event)
    thread = run_in_thread(guest)
    for number in range(1, 501):
        os.eventfd_write(event, 1)
        await_counter(guest, number)
    thread.join()
    assert guest.exits[0].run_count == 2
    guest.close()


def test_an_emulated_devices_line_interrupts_on_its_rising_edge() -> None:
    guest = counting_guest(4, 100)
    thread = run_in_thread(guest)
    chip = ffi.cast("struct sc_irqchip *", guest.vm.irqchip)
    for number in range(1, 101):
        chip.set(chip.opaque, 4, 1)
        await_counter(guest, number)
        chip.set(chip.opaque, 4, 0)
    thread.join()
    guest.close()


def test_a_removed_irqfd_is_silent(event: int) -> None:
    guest = counting_guest(5, 1)
    guest.vm.add_irqfd(5, event)
    guest.vm.remove_irqfd(5, event)
    os.eventfd_write(event, 1)
    thread = run_in_thread(guest)
    assert guest.word(COUNTER) == 0
    assert os.eventfd_read(event) == 1
    guest.vm.add_irqfd(5, event)
    os.eventfd_write(event, 1)
    thread.join()
    assert guest.word(COUNTER) == 1
    guest.close()


def test_an_irqfd_signalled_before_it_was_added_still_interrupts(event: int) -> None:
    """A backend may finish a request before the guest's device is wired up again."""
    guest = counting_guest(6, 1)
    os.eventfd_write(event, 1)
    guest.vm.add_irqfd(6, event)
    guest.run_to_end()
    assert guest.word(COUNTER) == 1
    guest.close()


def test_an_irqfd_that_cannot_be_registered_is_named(event: int) -> None:
    guest = ringing(1)
    guest.vm.add_irqfd(5, event)
    with pytest.raises(VmmError, match=r"KVM_IRQFD \(add line 5\) failed"):
        guest.vm.add_irqfd(5, event)
    guest.close()
