"""The file of an inflight region, which the front-end is to keep (vhost-user, "Inflight I/O tracking").

A sandboxed backend has one from before its filter is in force. Could it make them later, it could make any number of
any size: what lies in such files is nobody's private memory, and no limit of a process counts it.
"""

from __future__ import annotations

import fcntl
import mmap
import os

F_ADD_SEALS = 1033  # Linux, not exported by fcntl
F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW = 1, 2, 4


def sealed_memfd(name: str, size: int) -> int:
    """Return a memfd of `size` bytes that nobody who gets it can shrink under our feet."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW)
    return fd


class InflightFile:
    """Room for one region of at most `capacity` bytes; pages that no region has used cost nothing."""

    def __init__(self, capacity: int) -> None:
        self.fd = sealed_memfd("inflight", capacity)

    def renewed(self, size: int) -> int:
        """A descriptor of the file, which is the caller's, with `size` zeros in it: earlier regions are over."""
        with mmap.mmap(self.fd, size) as region:
            region.write(bytes(size))
        return os.dup(self.fd)

    def close(self) -> None:
        os.close(self.fd)
