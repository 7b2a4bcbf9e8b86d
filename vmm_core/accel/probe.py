"""Which accelerator to use: does KVM here run guest code, or does it only look as if it did? (design section 3)

KVM-PVM offers every capability, but runs an ordinary guest in the kernel's instruction emulator, at about a million
instructions a second, where hardware runs a billion. A timed loop tells them apart.
"""

from __future__ import annotations

import os

from vmm_core._native import ffi, lib
from vmm_core.accel.kvm.vm import DEVICE, explain

PVM_MODULE = "/sys/module/kvm_pvm"  # a hint that costs nothing, for who asks for kvm by name
ITERATIONS = 4000
INSTRUCTIONS = 2 * ITERATIONS
LIMIT_NS = 100_000_000  # one measurement gives up after this
FAST_ENOUGH = 20.0  # million instructions per second; nested KVM reaches 80 and more, an emulator 1 to 5
ATTEMPTS = 2  # a slow result is confirmed once


class Unusable(Exception):
    """KVM cannot run a guest here; the text says why."""


def choose(requested: str, device: str = DEVICE) -> tuple[str, str]:
    """Return (accelerator, reason). `requested` is auto, kvm, tcg or test; only `auto` is decided here: it measures."""
    if requested == "kvm" and os.path.exists(PVM_MODULE):
        return requested, "requested, though KVM-PVM emulates ordinary guests: this one will be very slow"
    if requested != "auto":
        return requested, "requested"
    try:
        speed = measure(device)
    except Unusable as error:
        return "tcg", str(error)
    figure = f"KVM runs guest code at {_figure(speed)} million instructions per second"
    if speed >= FAST_ENOUGH:
        return "kvm", figure
    return "tcg", f"{figure}: it emulates them, {FAST_ENOUGH:g} would be the least to use it"


def measure(device: str = DEVICE) -> float:
    """Return how many million instructions per second KVM executes in a throw-away guest; 0: nowhere in time.

    Raises Unusable. Takes about as long as creating a VM where KVM is good, at most 0.2 s where it is bad.
    """
    speed = 0.0
    for _ in range(ATTEMPTS):
        speed = max(speed, _measure_once(device))
        if speed >= FAST_ENOUGH or speed == 0.0:
            break
    return speed


def _measure_once(device: str) -> float:
    result = ffi.new("struct sc_kvm_speed *")
    failure = ffi.new("struct sc_kvm_error *")
    if lib.sc_kvm_probe(os.fsencode(device), ITERATIONS, LIMIT_NS, result, failure) < 0:
        raise Unusable(explain(failure, device))
    return INSTRUCTIONS * 1000 / int(result.nanoseconds) if result.nanoseconds else 0.0


def _figure(speed: float) -> str:
    return f"{speed:.1f}" if speed >= 0.1 else "less than 0.1"
