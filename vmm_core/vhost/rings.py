"""What a backend must be told before it may touch guest memory: memory table, dirty log, inflight region, rings."""

from __future__ import annotations

import os
import select

from ipc import vhost_user as wire
from ipc.errors import WireError
from ipc.fds import close_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmm_core.memory.table import RamRegion
    from vmm_core.vhost.dirty_log import DirtyLog
    from vmm_core.vhost.user import Session
    from vmm_core.virtio.device import QueueSetup

USER_ADDRESS_BASE = 1 << 46  # "user address" = guest-physical + this: a mere key, so our own addresses leak to nobody
MAX_INFLIGHT = 64 << 20  # bytes; the largest honest region is below 32 MiB (256 queues of 32768 at 24 bytes is hostile)
F_RING_PACKED = 34
SPLIT_ENTRY, PACKED_ENTRY = 16, 32  # bytes in an inflight region, also of its head
F_GET_SEALS = 1034  # Linux, not exported by fcntl
PACKED_START = 1 << 15  # index 0, wrap counter 1
# In the head of a packed ring's inflight region (`backends/runtime/inflight.h`).
PACKED_VERSION, PACKED_USED, PACKED_WRAP = slice(8, 10), slice(16, 18), 20


class Inflight:
    """The region in which a backend notes requests in flight; it outlives the backend. Sizes in bytes."""

    def __init__(self, fd: int, size: int, offset: int, queues: int, queue_size: int) -> None:
        self.fd = fd
        self.size = size
        self.offset = offset
        self.queues = queues
        self.queue_size = queue_size

    def busy(self, *, packed: bool) -> bytes:
        """A picture of the region while it lists a request, else nothing (`backends/runtime/inflight.h`)."""
        entry = PACKED_ENTRY if packed else SPLIT_ENTRY  # whose first byte is the "in flight" mark
        each = self.stride(entry)
        picture = os.pread(self.fd, min(self.size, each * self.queues), self.offset)  # a rogue's may be huge
        for start in range(entry, each * self.queues, each):
            if any(picture[start : start + entry * self.queue_size : entry]):
                return picture
        return b""

    def position(self, index: int) -> tuple[int, int] | None:
        """Next descriptor and wrap counter of a packed ring: where its backend is when nothing is in flight.

        Only the two ends know that, but one of them writes it down. None when no backend has used the ring yet.
        """
        head = self.packed_part(index, PACKED_ENTRY)
        return (int.from_bytes(head[PACKED_USED], "little"), head[PACKED_WRAP] & 1) if head else None

    def packed_part(self, index: int, length: int) -> bytes:
        """The first bytes of a packed ring's part; empty when no backend has used it yet. OSError once it is closed."""
        if index >= self.queues:
            return b""
        part = os.pread(self.fd, length, self.offset + index * self.stride(PACKED_ENTRY))
        return part if len(part) == length and any(part[PACKED_VERSION]) else b""

    def stride(self, entry: int) -> int:
        """Bytes from one ring's part to the next one's."""
        return -(-(entry + entry * self.queue_size) // 64) * 64

    def close(self) -> None:
        close_all((self.fd,))
        self.fd = -1


def user_address(gpa: int) -> int:
    """The address by which backends are told of guest-physical `gpa`."""
    return gpa + USER_ADDRESS_BASE


def send_memory(session: Session, regions: Sequence[RamRegion]) -> None:
    """Tell the backend all of guest memory, in slots where it has them; WireError when it cannot hold it."""
    limit = session.max_regions if session.has(wire.CONFIGURE_MEM_SLOTS) else wire.MAX_TABLE_REGIONS
    if limit is not None and len(regions) > limit:
        raise WireError(f"the backend holds {limit} memory regions, this machine has {len(regions)}")
    if session.has(wire.CONFIGURE_MEM_SLOTS):
        for region in regions:
            session.post(wire.ADD_MEM_REG, *_describe(region), fds=(region.fd,))
    else:
        session.post(wire.SET_MEM_TABLE, [_describe(region) for region in regions], fds=[r.fd for r in regions])
    session.synchronize()


def change_memory(session: Session, old: Sequence[RamRegion], new: Sequence[RamRegion]) -> None:
    """Tell the backend of added and removed memory, while rings run."""
    if not session.has(wire.CONFIGURE_MEM_SLOTS):
        send_memory(session, new)
        return
    for region in old:
        if region not in new:
            session.post(wire.REM_MEM_REG, *_describe(region))
    for region in new:
        if region not in old:
            session.post(wire.ADD_MEM_REG, *_describe(region), fds=(region.fd,))
    session.synchronize()


def send_dirty_log(session: Session, log: DirtyLog) -> None:
    """Hand the dirty log over; returns when the backend uses it."""
    session.call(wire.SET_LOG_BASE, log.size, 0, fds=(log.fd,))


def get_inflight(session: Session, queues: int, queue_size: int) -> Inflight | None:
    """Ask the backend for a region to track requests in flight; None: it wants none."""
    answer, fds = session.call_with_fds(wire.GET_INFLIGHT_FD, 0, 0, queues, queue_size)
    size, offset = answer[:2]
    try:
        if not fds or not size:
            return None
        if not _is_in_memory(fds[0]):
            raise WireError("the backend's inflight region is no file in memory")
        if size > MAX_INFLIGHT or offset + size > os.fstat(fds[0]).st_size:
            raise WireError(f"the backend's inflight region of {size} bytes at {offset} is not in its file")
        return Inflight(fds.pop(), size, offset, queues, queue_size)
    finally:
        close_all(fds)


def _is_in_memory(fd: int) -> bool:
    """Whether it is a memfd, or a file of tmpfs or hugetlbfs: of any other file system a look may take for ever."""
    import fcntl  # by now a driver runs: nobody waits for the VM's start

    try:
        return fcntl.fcntl(fd, F_GET_SEALS) >= 0
    except OSError:
        return False


def send_inflight(session: Session, region: Inflight) -> None:
    """Give the region (back) to the backend, before its rings start."""
    values = (region.size, region.offset, region.queues, region.queue_size)
    session.post(wire.SET_INFLIGHT_FD, *values, fds=(region.fd,))


def set_up_ring(session: Session, queue: QueueSetup, base: int, error_fd: int, *, log: bool) -> None:
    """Tell all about one ring. `base` is where it goes on (`first_base` for a new one).

    A backend without F_PROTOCOL_FEATURES begins to serve it at once, others when it is enabled.
    """
    index = queue.index
    session.post(wire.SET_VRING_NUM, index, queue.size)
    session.post(wire.SET_VRING_BASE, index, base)
    session.post(
        wire.SET_VRING_ADDR,
        index,
        wire.VRING_F_LOG if log else 0,
        user_address(queue.descriptors),
        user_address(queue.device_area),
        user_address(queue.driver_area),
        queue.device_area if log else 0,
    )
    session.post(wire.SET_VRING_ERR, index, fds=(error_fd,))
    session.post(wire.SET_VRING_CALL, index, fds=(queue.call_fd,))
    session.post(wire.SET_VRING_KICK, index, fds=(queue.kick_fd,))


def enable_ring(session: Session, index: int) -> None:
    """Have a ring served that is set up."""
    if session.features >> wire.F_PROTOCOL_FEATURES & 1:
        session.post(wire.SET_VRING_ENABLE, index, 1)


def stop_ring(session: Session, index: int, timeout: float) -> int:
    """Stop one ring, let its requests finish, and return where it would go on."""
    if session.features >> wire.F_PROTOCOL_FEATURES & 1:
        session.post(wire.SET_VRING_ENABLE, index, 0)
    answered, base = session.call(wire.GET_VRING_BASE, index, 0, timeout=timeout)
    if answered != index:
        raise WireError(f"the backend stopped ring {answered} instead of {index}")
    return int(base)


def first_base(features: int) -> int:
    """The base of a ring that the driver has just set up."""
    return PACKED_START | PACKED_START << 16 if features >> F_RING_PACKED & 1 else 0


def used_index(memory: Sequence[RamRegion], queue: QueueSetup) -> int:
    """The index up to which a split ring's device area says that requests are done."""
    return int.from_bytes(_read(memory, queue.device_area + 2, 2), "little")


def available_index(memory: Sequence[RamRegion], queue: QueueSetup) -> int:
    """The index up to which a split ring's driver area says that there are requests."""
    return int.from_bytes(_read(memory, queue.driver_area + 2, 2), "little")


def is_drained(memory: Sequence[RamRegion], queue: QueueSetup) -> bool:
    """Whether a split ring has nothing in it that waits."""
    return used_index(memory, queue) == available_index(memory, queue)


def is_offered(memory: Sequence[RamRegion], queue: QueueSetup, index: int, wrap: int) -> bool:
    """Whether a packed ring's descriptor waits for the backend (virtio 1.2, 2.8.1)."""
    flags = int.from_bytes(_read(memory, queue.descriptors + 16 * index + 14, 2), "little")
    return flags >> 7 & 1 == wrap != flags >> 15


def progress(memory: Sequence[RamRegion], queue: QueueSetup) -> bytes:
    """Bytes of the ring that change as its backend works: the head of the device area, the first descriptors."""
    return b"%d " % queue.index + _read(memory, queue.device_area, 4) + _read(memory, queue.descriptors, 1024)


def is_readable(fd: int) -> bool:
    """Whether an eventfd has been signalled and nobody has taken that yet."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(0))


def signal(fd: int) -> None:
    """Raise an eventfd that the backend shares: it may have made it blocking, and filled it. Then it needs no more."""
    room = select.poll()
    room.register(fd, select.POLLOUT)
    if room.poll(0):
        os.eventfd_write(fd, 1)


def _read(memory: Sequence[RamRegion], gpa: int, length: int) -> bytes:
    """Bytes of guest memory; zeros where there is none."""
    for region in memory:
        if region.gpa <= gpa < region.end:
            return os.pread(region.fd, length, region.offset + gpa - region.gpa).ljust(length, b"\0")
    return bytes(length)


def _describe(region: RamRegion) -> tuple[int, int, int, int]:
    return region.gpa, region.size, user_address(region.gpa), region.offset
