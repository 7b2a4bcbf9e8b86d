"""Pausing: an operator's `stop` means that no guest instruction runs, and `cont` that it runs again."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from vmm_core import vcpus as vcpus_module
from vmm_core._native import lib
from vmm_core.accel.base import AccelVm
from vmm_core.bus.dispatch import Bus
from vmm_core.errors import VmmError
from vmm_core.vcpus import Vcpus


class FakeVm(AccelVm):
    """An accelerator whose vCPUs spin until kicked; a kick is sticky, as the real ones' are."""

    def __init__(self, count: int) -> None:
        self.kicks = [threading.Event() for _ in range(count)]
        self.entered = [threading.Event() for _ in range(count)]
        self.inside = [0] * count
        self.deaf = False

    def run_vcpu(self, index: int, exit_record: object) -> int:
        self.inside[index] += 1
        self.entered[index].set()
        while not (self.kicks[index].wait(0.001) and not self.deaf):
            pass
        self.kicks[index].clear()
        return int(lib.SC_EXIT_KICKED)

    def kick(self, index: int) -> None:
        self.kicks[index].set()


@pytest.fixture
def running() -> Iterator[tuple[FakeVm, Vcpus]]:
    vm = FakeVm(3)
    threads = Vcpus(vm, Bus(), 3, lambda reason, message: None)
    threads.start(paused=False)
    assert all(entered.wait(5) for entered in vm.entered)
    yield vm, threads
    vm.deaf = False
    assert threads.stop(5.0)


def test_no_vcpu_runs_while_paused(running: tuple[FakeVm, Vcpus]) -> None:
    vm, threads = running
    for _ in range(200):
        threads.pause()
        before = list(vm.inside)
        assert threads.paused
        for index in range(3):
            vm.kick(index)  # a stray kick must not let a parked vCPU go
        assert vm.inside == before
        threads.resume()
        assert not threads.paused


def test_a_vcpu_that_does_not_stop_fails_the_pause_and_the_vm_runs_on(
    running: tuple[FakeVm, Vcpus], monkeypatch: pytest.MonkeyPatch
) -> None:
    vm, threads = running
    monkeypatch.setattr(vcpus_module, "PAUSE_LIMIT", 0.05)
    vm.deaf = True
    with pytest.raises(VmmError, match="Failed to pause VM"):
        threads.pause()
    vm.deaf = False
    assert not threads.paused
    monkeypatch.setattr(vcpus_module, "PAUSE_LIMIT", 5.0)
    for _ in range(50):  # no stale signal of the failed attempt makes a later pause return early
        threads.pause()
        before = list(vm.inside)
        assert vm.inside == before
        threads.resume()


def test_a_frozen_start_runs_nothing_until_resumed() -> None:
    vm = FakeVm(2)
    threads = Vcpus(vm, Bus(), 2, lambda reason, message: None)
    threads.start(paused=True)
    assert threads.paused
    assert vm.inside == [0, 0]
    threads.resume()
    threads.pause()
    assert min(vm.inside) >= 0
    assert threads.stop(5.0)
