"""The vCPU threads: running, pausing and stopping them without races.

Each vCPU has two locks used as binary semaphores: `parked` is released by the vCPU when it stands at the gate, `gate`
is released to let it go on. Both change hands under one mutex, so that a vCPU that comes late, after its pause was
given up, can leave no stale signal behind. A kick is sticky in the accelerator, so a request made just before the vCPU
enters the guest is not lost.
"""

from __future__ import annotations

import os
from _thread import allocate_lock, get_native_id, start_new_thread
from time import monotonic

from vmm_core import log
from vmm_core._native import ffi, lib
from vmm_core.affinity import ThisCpu
from vmm_core.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Callable

    from vmm_core.accel.base import AccelVm
    from vmm_core.bus.dispatch import Bus

PAUSE_LIMIT = 2.0  # seconds, as StratoVirt has it


class _Vcpu:
    def __init__(self, index: int) -> None:
        self.index = index
        self.exit = ffi.new("struct sc_exit *")
        self.gate = _taken_lock()
        self.parked = _taken_lock()
        self.finished = _taken_lock()
        self.began = _taken_lock()
        self.at_gate = False
        self.thread_id = 0


def _taken_lock() -> LockType:
    lock = allocate_lock()
    lock.acquire()
    return lock


class Vcpus:
    """All vCPU threads of a VM. `pause`, `resume` and `stop` are for one controlling thread (the event loop's)."""

    def __init__(self, vm: AccelVm, bus: Bus, count: int, on_exit: Callable[[int, str], None]) -> None:
        self._vm = vm
        self._bus = bus
        self._on_exit = on_exit
        self._vcpus = [_Vcpu(index) for index in range(count)]
        self._mutex = allocate_lock()
        self._started = False
        self._paused = False
        self._stopping = False

    @property
    def paused(self) -> bool:
        return self._paused

    def thread_ids(self) -> list[int]:
        """Native thread ids, 0 before a thread has started."""
        return [vcpu.thread_id for vcpu in self._vcpus]

    def run_counts(self) -> list[int]:
        """How often each vCPU has left the guest for the accelerator's user space."""
        return [int(vcpu.exit.run_count) for vcpu in self._vcpus]

    def start(self, *, paused: bool) -> None:
        """Start the threads; `paused` ones wait at their gates (`-S`)."""
        self._paused = paused
        self._started = True
        self._start_first()
        for vcpu in self._vcpus[1:]:
            start_new_thread(self._thread, (vcpu, None))

    def _start_first(self) -> None:
        """Give the first vCPU this thread's CPU and the GIL, and wait until it has them."""
        with ThisCpu() as cpu:
            start_new_thread(self._thread, (self._vcpus[0], cpu.allowed))
            self._vcpus[0].began.acquire()

    def pause(self) -> None:
        """Return once no vCPU runs guest code; VmmError (and running again) when one does not stop in time."""
        if self._paused:
            return
        with self._mutex:
            self._paused = True
        deadline = monotonic() + PAUSE_LIMIT
        for vcpu in self._vcpus:
            self._vm.kick(vcpu.index)
        for vcpu in self._vcpus:
            if not vcpu.parked.acquire(timeout=max(0.0, deadline - monotonic())):
                self.resume()
                raise VmmError(f"Failed to pause VM: vCPU {vcpu.index} did not stop within {PAUSE_LIMIT:g} s")

    def resume(self) -> None:
        with self._mutex:
            self._paused = False
            for vcpu in self._vcpus:
                if vcpu.at_gate:
                    vcpu.at_gate = False
                    vcpu.parked.acquire(blocking=False)
                    vcpu.gate.release()

    def stop(self, limit: float) -> bool:
        """End all threads; False when one was still busy after `limit` seconds."""
        self._stopping = True
        self.resume()
        if not self._started:
            return True
        for vcpu in self._vcpus:
            self._vm.kick(vcpu.index)
        deadline = monotonic() + limit
        return all(vcpu.finished.acquire(timeout=max(0.0, deadline - monotonic())) for vcpu in self._vcpus)

    def _thread(self, vcpu: _Vcpu, cpus: set[int] | None) -> None:
        """`cpus`: where this vCPU may run, if not where its starter may."""
        vcpu.thread_id = get_native_id()
        if cpus:
            os.sched_setaffinity(0, cpus)
        vcpu.began.release()
        try:
            self._pass_gate(vcpu)
            while not self._stopping and self._step(vcpu):
                pass
        except Exception as error:
            log.exception(f"vCPU {vcpu.index} failed", error)
            self._on_exit(lib.SC_EXIT_FAILED, f"vCPU {vcpu.index}: {error}")
        finally:
            vcpu.finished.release()

    def _step(self, vcpu: _Vcpu) -> bool:
        """Run the guest once; False when this vCPU is done."""
        reason = self._vm.run_vcpu(vcpu.index, vcpu.exit)
        if reason == lib.SC_EXIT_COLD:
            self._bus.access(vcpu.exit.access)
            return True
        if reason == lib.SC_EXIT_KICKED:
            self._pass_gate(vcpu)
            return True
        message = ffi.string(vcpu.exit.message).decode(errors="replace")
        self._on_exit(reason, f"vCPU {vcpu.index}: {message}" if message else "")
        return False

    def _pass_gate(self, vcpu: _Vcpu) -> None:
        with self._mutex:
            if not self._paused:
                return
            vcpu.at_gate = True
            vcpu.parked.release()
        vcpu.gate.acquire()
