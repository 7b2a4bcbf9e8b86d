"""The core's end of a backend's counters: sealed shared memory that the core makes, hands over, and only ever reads."""

from __future__ import annotations

import fcntl
import mmap
import os

from ipc import queue_stats

TYPE_CHECKING = False
if TYPE_CHECKING:
    Counters = dict[str, int | list[int]]

F_ADD_SEALS = 1033
SEALS = 1 | 2 | 4  # F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW: a backend cannot pull the pages from under us


class QueueStats:
    """Counters of one device's queues, kept over restarts of its backend. `fd` is what each process is given."""

    def __init__(self, name: str, queue_sizes: tuple[int, ...]) -> None:
        self._sizes = queue_sizes
        self.fd = os.memfd_create(f"stats-{name}"[:100], os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        size = queue_stats.size(len(queue_sizes))
        os.ftruncate(self.fd, size)
        os.pwrite(self.fd, queue_stats.header(len(queue_sizes)), 0)
        fcntl.fcntl(self.fd, F_ADD_SEALS, SEALS)
        self._map = mmap.mmap(self.fd, size, mmap.MAP_SHARED, mmap.PROT_READ)

    def read(self) -> list[Counters]:
        """Every queue's counters; none when the backend has damaged the header, which is its own loss."""
        copy = self._map[:]
        if queue_stats.blocks(copy) != len(self._sizes):
            return []
        return [queue_stats.read(copy, index, size) for index, size in enumerate(self._sizes)]

    def close(self) -> None:
        self._map.close()
        os.close(self.fd)
