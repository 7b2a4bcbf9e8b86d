"""Switching the host's virtualization on while the rest of the VMM is still being imported.

The first VM on a host makes the kernel enable virtualization on every CPU, milliseconds that pass without our doing; a
VM that is never run, made on a thread of its own, has them pass in parallel.
"""

from __future__ import annotations

import fcntl
import os
from _thread import start_new_thread

DEVICE = "/dev/kvm"
KVM_CREATE_VM = 0xAE01

_fds: list[int] = []


def start() -> None:
    """Begin, and return at once. What fails here fails again, with its message, where it matters."""
    start_new_thread(_warm, ())


def finish() -> None:
    """Give the VM back once a real one exists."""
    while _fds:
        os.close(_fds.pop())


def _warm() -> None:
    try:
        device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return
    try:
        _fds.append(fcntl.ioctl(device, KVM_CREATE_VM, 0))
    except OSError:
        pass
    finally:
        os.close(device)
