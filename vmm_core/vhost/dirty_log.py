"""The vhost dirty log: shared memory in which backends mark each guest page they write."""

from __future__ import annotations

import mmap
import os

DIRTY_PAGE = 4096  # bytes of guest memory per bit


class DirtyLog:
    """One bit per 4 KiB page, from guest-physical 0 to `memory_end`; `size` is in bytes, a multiple of the page size.

    `map` is the log in this process (bit n of byte m is page 8 m + n). One log serves all devices of a VM: marking is
    an atomic OR. Sealed against resizing, so that no backend can make another one fault.
    """

    def __init__(self, memory_end: int) -> None:
        bits = -(-memory_end // DIRTY_PAGE)
        self.size = -(-bits // 8 // mmap.PAGESIZE) * mmap.PAGESIZE
        self.fd = os.memfd_create("dirty-log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, self.size)
        _seal(self.fd)
        self.map = mmap.mmap(self.fd, self.size)

    def close(self) -> None:
        """Unmap and close; no backend may be attached any more."""
        self.map.close()
        os.close(self.fd)


def _seal(fd: int) -> None:
    import fcntl

    F_ADD_SEALS, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW = 1033, 1, 2, 4
    fcntl.fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW)
