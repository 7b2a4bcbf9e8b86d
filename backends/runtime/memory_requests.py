"""The requests about guest memory, the dirty log and the region for requests in flight."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from backends.runtime.device import DeviceError, MemoryRegion
from backends.runtime.memory_map import MAX_REGIONS, MemoryMap, Region, check_file, checked
from backends.runtime.session_state import SessionState
from ipc import vhost_user as wire

if TYPE_CHECKING:
    from ipc.connection import Frame


class MemoryRequests(SessionState):
    """Handlers are named as the messages they serve; each gets the payload's values and the message."""

    def _set_mem_table(self, values: Any, frame: Frame) -> None:
        regions = [Region(*fields) for fields in values[0]]
        if len(regions) != len(frame.fds):
            raise DeviceError(f"SET_MEM_TABLE: {len(regions)} regions with {len(frame.fds)} descriptors")
        memory = MemoryMap()
        memory.regions = checked(regions, frame.fds)
        self._check_rings_survive(memory)
        fds = frame.take_fds()
        self.device.replace_regions(
            [MemoryRegion(r.gpa, r.size, r.user_address, fd, r.offset) for r, fd in zip(regions, fds, strict=True)]
        )
        self.memory = memory

    def _get_max_mem_slots(self, _values: Any, _frame: Frame) -> int:
        return MAX_REGIONS

    def _add_mem_reg(self, values: Any, frame: Frame) -> None:
        region = Region(*values)
        regions = checked([region, *self.memory.regions], frame.fds)
        (fd,) = frame.take_fds()
        self.device.add_region(region.gpa, region.size, region.user_address, fd, region.offset)
        self.memory.regions = regions

    def _rem_mem_reg(self, values: Any, _frame: Frame) -> None:
        region = self.memory.find(*values[:3])
        memory = MemoryMap()
        memory.regions = [other for other in self.memory.regions if other != region]
        self._check_rings_survive(memory)
        self.device.remove_region(region.gpa, region.size, region.user_address)
        self.memory = memory

    def _check_rings_survive(self, memory: MemoryMap) -> None:
        for index, ring in enumerate(self.rings):
            if not ring.survives(memory, self.packed):
                raise DeviceError(f"the new memory table lacks memory of running ring {index}")

    def _set_log_base(self, values: Any, frame: Frame) -> int:
        size, offset = values
        if not self.has(wire.LOG_SHMFD) or len(frame.fds) != 1:
            raise DeviceError("SET_LOG_BASE: only a log in shared memory is supported (LOG_SHMFD, one descriptor)")
        check_file(frame.fds[0], offset, size, "dirty log")
        if size * 8 * wire.DIRTY_PAGE < self.memory.end:
            raise DeviceError(f"dirty log of {size:#x} bytes does not cover memory up to {self.memory.end:#x}")
        (fd,) = frame.take_fds()
        self.device.set_log(fd, offset, size)
        return 0

    def _set_log_fd(self, _values: Any, _frame: Frame) -> None:
        """Who wants to be told of changes to the log may look at it; the descriptor is closed with the message."""

    def _get_inflight_fd(self, values: Any, _frame: Frame) -> tuple[tuple[int, ...], list[int]]:
        _, _, queues, queue_size = values
        size = self._inflight_size(queues, queue_size)
        fd = self.device.new_inflight_file(size)
        try:
            self.device.set_inflight(os.dup(fd), size, 0, queues, queue_size)
        except BaseException:
            os.close(fd)
            raise
        return (size, 0, queues, queue_size), [fd]

    def _set_inflight_fd(self, values: Any, frame: Frame) -> None:
        size, offset, queues, queue_size = values
        needed = self._inflight_size(queues, queue_size)
        if size < needed:
            raise DeviceError(f"inflight region of {size:#x} bytes, {needed:#x} are needed")
        check_file(frame.fds[0], offset, size, "inflight region")
        (fd,) = frame.take_fds()
        self.device.set_inflight(fd, size, offset, queues, queue_size)

    def _inflight_size(self, queues: int, queue_size: int) -> int:
        self.check_stopped("the inflight region")
        if not 1 <= queues <= self.device.num_queues or not 1 <= queue_size <= self.device.max_queue_size:
            raise DeviceError(f"inflight region for {queues} rings of {queue_size}: more than there are, or none")
        size = self.device.inflight_layout(queues, queue_size)
        if size <= 0:
            raise DeviceError(f"a {self.device.name} keeps no inflight region")
        return size
