"""Probing KVM and making the VM while the rest of the VMM is still being imported (`vmm_core/native/kvm_early.c`)."""

from __future__ import annotations

import os

from vmm_core._native import lib

DEVICE = "/dev/kvm"


def start(*, probe: bool) -> None:
    """Begin, and return at once. What fails here fails again, with its message, where it matters."""
    iterations, limit = 0, 0
    if probe:
        from vmm_core.accel.probe import ITERATIONS, LIMIT_NS

        iterations, limit = ITERATIONS, LIMIT_NS
    lib.sc_kvm_vm_begin(os.fsencode(DEVICE), iterations, limit)


def finish() -> None:
    """Give the VM back if another accelerator was chosen."""
    lib.sc_kvm_vm_forget()
