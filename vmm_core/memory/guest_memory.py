"""Guest RAM: one memfd (or a file on hugetlbfs), mapped shared, so that backends can map the same pages."""

from __future__ import annotations

import errno
import mmap
import os

from vmm_core import log
from vmm_core._native import ffi
from vmm_core.errors import VmmError
from vmm_core.memory.hugepages import open_backing_file
from vmm_core.memory.table import PAGE_SIZE, RamRegion

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm_core.config.records import MachineConfig, MemoryConfig

MAP_NORESERVE = 0x4000  # Linux, not exported by mmap before Python 3.13
MADV_POPULATE_WRITE = 23  # Linux 5.14
F_ADD_SEALS = 1033
F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_SEAL = 2, 4, 1


class GuestMemory:
    """All RAM of one VM. `regions` is fixed for its life; addresses are guest-physical throughout."""

    def __init__(self, config: MemoryConfig, machine: MachineConfig, pieces: list[tuple[int, int, int]]) -> None:
        self.size = config.size
        self.fd, self.page_size = self._open(config)
        self._map = self._map_shared()
        self._advise(config, machine)
        base = int(ffi.cast("uintptr_t", ffi.from_buffer(self._map)))
        self.regions = tuple(
            RamRegion(gpa=gpa, size=size, fd=self.fd, offset=offset, host_address=base + offset)
            for gpa, size, offset in pieces
        )
        if config.prealloc:
            self._populate()

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        """Copy `data` to `gpa`; VmmError unless all of it lies in RAM."""
        offset = self._offset(gpa, len(data))
        self._map[offset : offset + len(data)] = data

    def read(self, gpa: int, length: int) -> bytes:
        """Return `length` bytes at `gpa`; VmmError unless all of it lies in RAM."""
        offset = self._offset(gpa, length)
        return self._map[offset : offset + length]

    def view(self, gpa: int, length: int) -> memoryview:
        """Return a writable view of RAM, to read a file straight into it. Release it before `close`."""
        offset = self._offset(gpa, length)
        return memoryview(self._map)[offset : offset + length]

    def end_of_low_ram(self) -> int:
        """First guest-physical address after the region that begins at zero."""
        return self.regions[0].end

    def close(self) -> None:
        os.close(self.fd)

    def _offset(self, gpa: int, length: int) -> int:
        for region in self.regions:
            if region.gpa <= gpa and gpa + length <= region.end:
                return region.offset + gpa - region.gpa
        raise VmmError(f"{length:#x} bytes at {gpa:#x} do not lie in guest RAM of {self.size >> 20} MiB")

    def _open(self, config: MemoryConfig) -> tuple[int, int]:
        if config.path is not None:
            return open_backing_file(config.path, config.size)
        fd = os.memfd_create("guest-ram", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, config.size)
        _seal_size(fd)
        return fd, PAGE_SIZE

    def _map_shared(self) -> mmap.mmap:
        try:
            return mmap.mmap(self.fd, self.size, mmap.MAP_SHARED | MAP_NORESERVE)
        except OSError as error:
            os.close(self.fd)
            raise VmmError(f"cannot map {self.size >> 20} MiB of guest memory: {error.strerror}") from error

    def _advise(self, config: MemoryConfig, machine: MachineConfig) -> None:
        if not machine.dump_guest_core:
            self._map.madvise(mmap.MADV_DONTDUMP)
        if config.path is None:
            try:
                self._map.madvise(mmap.MADV_HUGEPAGE)
            except OSError as error:  # a kernel without transparent huge pages
                log.debug(f"no transparent huge pages for guest memory: {error.strerror}")

    def _populate(self) -> None:
        try:
            self._map.madvise(MADV_POPULATE_WRITE)
        except OSError as error:
            if error.errno == errno.EINVAL:  # before Linux 5.14: touch each page by hand
                for offset in range(0, self.size, self.page_size):
                    self._map[offset] = 0
                return
            raise VmmError(
                f"cannot allocate {self.size >> 20} MiB of guest memory in advance: {error.strerror}"
            ) from error


def _seal_size(fd: int) -> None:
    """Forbid resizing: a backend that shrank the file would make the core and its siblings fault."""
    import fcntl

    fcntl.fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
