"""Kicks: pause, stop and quit rely on each of them, so not one may be lost, whatever the vCPU is doing."""

from __future__ import annotations

import os
import threading

import pytest

from tests.deadlines import SCALE
from tests.device.kvm_guest import DONE, HLT, HOLE, LOAD, SPIN, TinyGuest, ebx, needs_kvm
from vmm_core._native import lib
from vmm_core.config.records import CpuTopology

pytestmark = needs_kvm
COLD_PORT = 0x600
LIMIT = 20 * SCALE  # seconds until a kick counts as lost
GUESTS = {
    "spinning": SPIN,
    "halted": b"\xfa" + HLT + b"\xeb\xfd",
    "leaving for C": ebx(HOLE) + LOAD[4] + b"\xeb\xfc",
    "leaving for Python": b"\x66\xba\x00\x06\xee\xeb\xfd",  # mov $0x600, %dx; 1: out %al, %dx; jmp 1b
}


class Runner:
    """A vCPU thread like the product's: answers cold accesses, acknowledges each kick, ends when told."""

    def __init__(self, guest: TinyGuest, index: int = 0) -> None:
        self.kicks = threading.Semaphore(0)
        self.stopping = False
        self.guest, self.index = guest, index
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        while not self.stopping:
            reason = self.guest.run(self.index)
            if reason == lib.SC_EXIT_KICKED:
                self.kicks.release()
            else:
                assert reason == lib.SC_EXIT_COLD, self.guest.message(self.index)

    def kick(self) -> bool:
        """Kick and wait; False when the kick was lost."""
        self.guest.vm.kick(self.index)
        return self.kicks.acquire(timeout=LIMIT)

    def stop(self) -> None:
        self.stopping = True
        self.guest.vm.kick(self.index)
        self.thread.join(LIMIT)
        assert not self.thread.is_alive()


@pytest.mark.parametrize("doing", GUESTS)
def test_no_kick_is_lost_in_a_storm(doing: str) -> None:
    guest = TinyGuest(GUESTS[doing])
    guest.cold(True, COLD_PORT, 1)
    runner = Runner(guest)
    lost = [number for number in range(2500) if not runner.kick()]
    runner.stop()
    assert lost == []
    guest.close()


@pytest.mark.parametrize("doing", GUESTS)
def test_kicks_from_many_threads_end_in_one_that_is_seen(doing: str) -> None:
    guest = TinyGuest(GUESTS[doing])
    guest.cold(True, COLD_PORT, 1)
    runner = Runner(guest)

    def storm() -> None:
        for _ in range(500):
            guest.vm.kick(0)

    threads = [threading.Thread(target=storm) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while runner.kicks.acquire(blocking=False):
        pass
    assert runner.kick()
    runner.stop()
    guest.close()


def test_a_kick_before_the_first_run_counts() -> None:
    guest = TinyGuest(SPIN)
    guest.vm.kick(0)
    assert guest.run() == lib.SC_EXIT_KICKED
    guest.close()


def test_kicks_before_one_run_are_one_kick() -> None:
    guest = TinyGuest(DONE)
    for _ in range(10):
        guest.vm.kick(0)
    assert guest.run() == lib.SC_EXIT_KICKED
    guest.run_to_end()
    guest.close()


def test_a_kick_during_a_cold_access_neither_loses_the_answer_nor_the_kick() -> None:
    guest = TinyGuest(b"\x66\xba\x00\x06\xec\xe6\x10")  # in (%dx), %al; out %al, $DONE
    guest.cold(True, COLD_PORT, 1)
    assert guest.run() == lib.SC_EXIT_COLD
    guest.exits[0].access.data = 0xA5
    guest.vm.kick(0)
    assert guest.run() == lib.SC_EXIT_KICKED
    guest.run_to_end()
    assert guest.access()[4] == 0xA5
    guest.close()


def test_a_cpu_that_waits_to_be_started_can_be_kicked() -> None:
    guest = TinyGuest(SPIN, cpus=CpuTopology(cpus=2, max_cpus=2, cores=2))
    runner = Runner(guest, 1)
    assert all(runner.kick() for _ in range(100))
    runner.stop()
    guest.close()


def test_kicks_do_not_disturb_a_thread_that_has_left_the_guest() -> None:
    """A signal may arrive late: a system call that the thread makes by then must go on undisturbed."""
    guest = TinyGuest(SPIN)
    reader, writer = os.pipe()
    words: list[bytes] = []

    def run() -> None:
        while words[-1:] != [b"q"]:
            assert guest.run() == lib.SC_EXIT_KICKED
            words.append(os.read(reader, 1))

    thread = threading.Thread(target=run)
    thread.start()
    for letter in b"x" * 50 + b"q":
        guest.vm.kick(0)
        guest.vm.kick(0)
        os.write(writer, bytes([letter]))
    while thread.is_alive():
        guest.vm.kick(0)
        thread.join(0.01)
    assert b"".join(words) == b"x" * 50 + b"q"
    os.close(reader)
    os.close(writer)
    guest.close()
