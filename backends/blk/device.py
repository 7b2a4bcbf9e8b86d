"""virtio-blk behind the vhost-user server: control in Python, the data path in `_blk` (virtio 1.2, 5.2)."""

from __future__ import annotations

import mmap
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from backends.blk import image, layout
from backends.blk._blk import ffi, lib
from backends.blk.commands import COMMANDS, MAX_IOPS
from backends.blk.ring import Ring, area_lengths
from backends.runtime.device import Device, DeviceError, MemoryRegion
from backends.runtime.inflight_file import InflightFile
from ipc import queue_stats
from ipc.fds import close_all

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from ipc.control import Message, Value

ENGINES = ("io_uring", "native", "threads", "off", "null")
MAX_QUEUES, MAX_QUEUE_SIZE, MIN_QUEUE_SIZE = 32, 1024, 2
SERIAL_BYTES = 20
THREAD_NAME_BYTES = 15
LOG_ALL = 26
INFLIGHT_SHMFD = 12
POLL_NANOSECONDS = 20_000
LOG_FLAG = 1


def check(result: int, what: str) -> int:
    """Turn -errno into a DeviceError that names `what`."""
    if result < 0:
        raise DeviceError(f"{what}: {os.strerror(-result)}")
    return result


class BlkDevice(Device):
    """A disk over an open image. `start` creates its threads; nothing runs before. Takes over `fd` and `stats_fd`.

    `stats_fd` is shared memory to count in (`ipc/queue_stats.py`); -1: the counters are this process's alone.
    """

    name = "blk"
    protocol_features = 1 << INFLIGHT_SHMFD

    def __init__(self, fd: int, options: Mapping[str, Any], stats_fd: int = -1) -> None:
        self._fd = fd
        self._size = image.size_of(fd)
        self.num_queues = int(options.get("num_queues", 1))
        self.max_queue_size = int(options.get("queue_size", 256))
        self._read_only = bool(options.get("read_only", False))
        self._discard = bool(options.get("discard", False)) and not self._read_only
        self._check_options(options)
        self._wce = True
        self._acked = 0
        self._inflight: mmap.mmap | None = None
        self._inflight_ring_size = 0  # descriptors for which the region has room, of each ring
        self._inflight_file = InflightFile(self.num_queues * int(lib.sc_inflight_size(self.max_queue_size, True)))
        self._rings = [Ring() for _ in range(self.num_queues)]
        self._alignment = image.direct_alignment(fd)
        self.features = self._offer()
        self._blk = self._create(options)
        if stats_fd >= 0:
            self._count_in(stats_fd)

    def descriptors(self) -> list[int]:
        """What it needs beside what it is given."""
        return [self._fd, self._inflight_file.fd]

    def start(self) -> None:
        """Create the worker threads and their io_urings; DeviceError when the kernel refuses."""
        check(lib.sc_blk_start(self._blk), f"aio={self._engine}")

    def stats(self, index: int) -> dict[str, Any]:
        """Counters of one queue since the start; latency as counts per power of two of microseconds."""
        stats = lib.sc_blk_queue(self._blk, index).stats
        names = ("kicks", "calls", "calls_suppressed", "requests", "read_bytes", "written_bytes", "errors", "in_flight")
        return {name: int(getattr(stats, name)) for name in names} | {"latency": list(stats.latency)}

    def set_iops(self, iops: int) -> None:
        """Limit reads and writes per second, on average, from now on; 0: no limit."""
        with self._paused():  # which wakes those that wait for their turn
            lib.sc_blk_set_iops(self._blk, iops)

    def refresh_size(self) -> int:
        """The image was resized: show it to the driver. Returns the size in bytes."""
        self._size = image.size_of(self._fd)
        lib.sc_blk_set_size(self._blk, self._size)
        if self.config_change_notifier is not None:
            self.config_change_notifier()
        return self._size

    def command(self, name: str, arguments: Mapping[str, Value]) -> Message:
        if name not in COMMANDS:
            return super().command(name, arguments)
        return COMMANDS[name](self, arguments)

    def set_features(self, acked: int) -> None:
        self._acked = acked
        with self._paused():
            lib.sc_blk_memory(self._blk).log_enabled = bool(acked >> LOG_ALL & 1)
            lib.sc_blk_set_features(self._blk, acked)
            self._update_writethrough()
            for index in range(self.num_queues):
                queue = lib.sc_blk_queue(self._blk, index)
                queue.packed = bool(acked >> layout.F_RING_PACKED & 1)
                queue.event_idx = bool(acked >> layout.F_EVENT_IDX & 1)
                queue.indirect = bool(acked >> layout.F_INDIRECT_DESC & 1)

    def add_region(self, gpa: int, size: int, user_address: int, fd: int, offset: int) -> None:
        try:
            with self._paused():
                check(lib.sc_memory_add(self._memory, gpa, size, user_address, fd, offset), "memory region")
        finally:
            os.close(fd)

    def remove_region(self, gpa: int, size: int, user_address: int) -> None:
        with self._paused():
            check(lib.sc_memory_remove(self._memory, gpa, size, user_address), "memory region")

    def replace_regions(self, regions: list[MemoryRegion]) -> None:
        try:
            with self._paused():
                try:
                    self._map_all(regions)
                except DeviceError:
                    for index in range(self.num_queues):  # whose addresses lead nowhere now
                        self._stop_ring(index)
                    raise
        finally:
            for region in regions:
                os.close(region.fd)

    def set_log(self, fd: int, offset: int, size: int) -> None:
        try:
            with self._paused():
                check(lib.sc_memory_set_log(self._memory, fd, offset, size), "dirty log")
        finally:
            os.close(fd)

    def clear_log(self) -> None:
        with self._paused():
            lib.sc_memory_clear_log(self._memory)

    def vring_num(self, index: int, num: int) -> None:
        with self._paused():
            lib.sc_blk_queue(self._blk, index).size = num

    def vring_addr(self, index: int, flags: int, desc: int, used: int, avail: int, log: int) -> None:
        with self._paused():
            self._translate(index, flags, desc, used, avail, log)
        self._rings[index].addresses = (flags, desc, used, avail, log)

    def vring_base(self, index: int, base: int) -> None:
        self._rings[index].base = base

    def vring_kick(self, index: int, fd: int) -> None:
        if fd < 0:
            raise DeviceError("a ring without a doorbell is not supported: blk does not poll")
        with self._paused():
            queue = lib.sc_blk_queue(self._blk, index)
            queue.kick_fd, fd = fd, queue.kick_fd
            try:
                if not queue.ready:
                    self._start_ring(index)
            finally:
                close_all((fd,))

    def vring_call(self, index: int, fd: int) -> None:
        with self._paused():
            queue = lib.sc_blk_queue(self._blk, index)
            queue.call_fd, fd = fd, queue.call_fd
        close_all((fd,))

    def vring_err(self, index: int, fd: int) -> None:
        with self._paused():
            queue = lib.sc_blk_queue(self._blk, index)
            queue.error_fd, fd = fd, queue.error_fd
        close_all((fd,))

    def vring_enable(self, index: int, enabled: bool) -> None:
        with self._paused():
            lib.sc_blk_queue(self._blk, index).enabled = enabled

    def vring_stop(self, index: int) -> int:
        with self._paused():
            if lib.sc_blk_queue(self._blk, index).ready:
                lib.sc_inflight_retire(lib.sc_blk_queue(self._blk, index))  # from now on the base counts
            return self._stop_ring(index)

    def get_config(self, offset: int, size: int) -> bytes:
        config = layout.config_space(
            size=self._size,
            block_size=layout.SECTOR,
            seg_max=max(1, self.max_queue_size - 2),
            physical_exponent=image.physical_exponent(self._fd),
            wce=self._wce,
            queues=self.num_queues,
        )
        return config[offset : offset + size].ljust(size, b"\0")

    def set_config(self, offset: int, data: bytes, flags: int) -> None:
        if offset != layout.WCE_OFFSET or len(data) != 1 or not self._acked >> layout.F_CONFIG_WCE & 1:
            raise DeviceError("only the cache mode (wce) can be written, with VIRTIO_BLK_F_CONFIG_WCE")
        self._wce = bool(data[0])
        self._update_writethrough()

    def inflight_layout(self, queues: int, queue_size: int) -> int:
        return queues * self._inflight_bytes(queue_size)

    def new_inflight_file(self, size: int) -> int:
        return self._inflight_file.renewed(size)

    def set_inflight(self, fd: int, size: int, offset: int, queues: int, queue_size: int) -> None:
        try:
            page = mmap.ALLOCATIONGRANULARITY
            start = offset // page * page
            region = mmap.mmap(fd, size + offset - start, mmap.MAP_SHARED, offset=start)
        except (OSError, ValueError) as error:
            raise DeviceError(f"inflight region: {error}") from error
        finally:
            os.close(fd)
        with self._paused():
            self._drop_inflight()
            self._inflight, self._inflight_ring_size = region, queue_size
            base = ffi.cast("uint8_t *", ffi.from_buffer(region)) + (offset - start)
            for index in range(min(queues, self.num_queues)):
                place = base + index * self._inflight_bytes(queue_size)
                lib.sc_vq_set_inflight(lib.sc_blk_queue(self._blk, index), place)

    def reset(self) -> None:
        with self._paused():
            for index in range(self.num_queues):
                self._stop_ring(index)
                self._forget_ring(index)
            self._drop_inflight()
        self._wce = True
        self.set_features(0)

    def end_session(self) -> None:
        self.reset()
        with self._paused():
            lib.sc_memory_clear_log(self._memory)
            lib.sc_memory_clear(self._memory)

    def close(self) -> None:
        self.end_session()
        lib.sc_blk_free(self._blk)
        self._inflight_file.close()
        os.close(self._fd)

    # Below: with the workers paused, except the first four.

    def _check_options(self, options: Mapping[str, Any]) -> None:
        self._engine = str(options.get("aio", "io_uring"))
        if self._engine not in ENGINES:
            raise DeviceError(f"aio={self._engine}: must be one of {', '.join(ENGINES)}")
        if not 1 <= self.num_queues <= MAX_QUEUES:
            raise DeviceError(f"num-queues={self.num_queues}: must be 1 to {MAX_QUEUES}")
        if not MIN_QUEUE_SIZE <= self.max_queue_size <= MAX_QUEUE_SIZE:
            raise DeviceError(f"queue-size={self.max_queue_size}: must be {MIN_QUEUE_SIZE} to {MAX_QUEUE_SIZE}")
        if not 0 <= int(options.get("iops", 0)) <= MAX_IOPS:
            raise DeviceError(f"iops={options['iops']}: must be 0 to {MAX_IOPS}")
        if len(str(options.get("serial", "")).encode()) > SERIAL_BYTES:
            raise DeviceError(f"serial: at most {SERIAL_BYTES} bytes")

    def _offer(self) -> int:
        features = layout.bits(
            layout.F_SEG_MAX, layout.F_BLK_SIZE, layout.F_FLUSH, layout.F_TOPOLOGY, layout.F_CONFIG_WCE,
            layout.F_INDIRECT_DESC, layout.F_EVENT_IDX, layout.F_VERSION_1, layout.F_RING_PACKED,
        )  # fmt: skip
        if self.num_queues > 1:
            features |= 1 << layout.F_MQ
        if self._read_only:
            return features | 1 << layout.F_RO
        return features | 1 << layout.F_WRITE_ZEROES | (1 << layout.F_DISCARD if self._discard else 0)

    def _create(self, options: Mapping[str, Any]) -> Any:
        zeroes = str(options.get("detect_zeroes", "off"))
        engine = ffi.new("char[]", self._engine.encode())
        settings = ffi.new("struct sc_blk_options *")
        settings.engine, settings.fd, settings.size = engine, self._fd, self._size
        settings.alignment, settings.queues, settings.queue_size = self._alignment, self.num_queues, self.max_queue_size
        settings.workers = 1 if options.get("iothread") else min(self.num_queues, os.cpu_count() or 1, 4)
        settings.thread_name = str(options.get("iothread") or "").encode()[:THREAD_NAME_BYTES]
        settings.iops = int(options.get("iops", 0))
        settings.read_only, settings.discard = self._read_only, self._discard
        settings.detect_zeroes, settings.detect_zeroes_unmap = zeroes != "off", zeroes == "unmap"
        settings.poll_ns = int(options.get("poll_ns", POLL_NANOSECONDS))
        ffi.memmove(settings.serial, str(options.get("serial", "")).encode().ljust(SERIAL_BYTES, b"\0"), SERIAL_BYTES)
        blk = lib.sc_blk_new(settings)
        if not blk:
            raise DeviceError("not enough memory for the queues")
        return blk

    def _count_in(self, fd: int) -> None:
        try:
            page = mmap.mmap(fd, 0)
        except (OSError, ValueError) as error:
            raise DeviceError(f"memory for counters: {error}") from error
        finally:
            os.close(fd)
        if queue_stats.blocks(page) < self.num_queues:
            raise DeviceError("memory for counters: its layout is not the one we know")
        self._stats_page = page  # unmapped with the process
        start = ffi.cast("uint8_t *", ffi.from_buffer(page)) + queue_stats.HEADER.size
        lib.sc_blk_set_stats(self._blk, ffi.cast("struct sc_vq_stats *", start))

    @contextmanager
    def _paused(self) -> Iterator[None]:
        lib.sc_blk_pause(self._blk)
        try:
            yield
        finally:
            lib.sc_blk_resume(self._blk)

    @property
    def _memory(self) -> Any:
        return lib.sc_blk_memory(self._blk)

    def _inflight_bytes(self, queue_size: int) -> int:
        return int(lib.sc_inflight_size(queue_size, bool(self._acked >> layout.F_RING_PACKED & 1)))

    def _update_writethrough(self) -> None:
        """Without FLUSH, or with the cache switched off, a write is done only when it is on the disk (5.2.5.2)."""
        flush = self._acked >> layout.F_FLUSH & 1
        lib.sc_blk_set_writethrough(self._blk, not flush or not self._wce)

    def _map_all(self, regions: list[MemoryRegion]) -> None:
        lib.sc_memory_clear(self._memory)
        for gpa, size, user_address, fd, offset in regions:
            check(lib.sc_memory_add(self._memory, gpa, size, user_address, fd, offset), "memory region")
        for index, ring in enumerate(self._rings):
            self._follow(index, ring)

    def _translate(self, index: int, flags: int, desc: int, used: int, avail: int, log: int) -> None:
        queue = lib.sc_blk_queue(self._blk, index)
        descriptors, driver, device = area_lengths(queue.size, queue.packed)
        queue.descriptors, queue.descriptors_gpa = self._user(desc, descriptors)
        queue.driver, _ = self._user(avail, driver)
        queue.device, queue.device_gpa = self._user(used, device)
        queue.log_used, queue.log_used_gpa = bool(flags & LOG_FLAG), log

    def _follow(self, index: int, ring: Ring) -> None:
        """After memory moved: a ring that runs must still be there; one that does not is looked for when it starts."""
        if ring.addresses is not None and lib.sc_blk_queue(self._blk, index).ready:
            self._translate(index, *ring.addresses)

    def _user(self, address: int, length: int) -> tuple[Any, int]:
        gpa = ffi.new("uint64_t *")
        host = lib.sc_memory_user(self._memory, address, length, gpa)
        if not host:
            raise DeviceError(f"ring address {address:#x} does not lie in guest memory")
        return host, int(gpa[0])

    def _start_ring(self, index: int) -> None:
        queue = lib.sc_blk_queue(self._blk, index)
        addresses = self._rings[index].addresses
        if addresses is None or queue.size == 0:
            raise DeviceError(f"ring {index} has no size or addresses")
        if self._inflight is not None and queue.size > self._inflight_ring_size:
            raise DeviceError(f"the inflight region is for rings of {self._inflight_ring_size}, not {queue.size}")
        self._translate(index, *addresses)  # memory may have been mapped anew since they were set
        if self._inflight is not None:
            lib.sc_blk_await_predecessor(self._blk)
        check(lib.sc_vq_start(queue, self._rings[index].base), f"ring {index}")
        queue.ready = True
        lib.sc_vq_call(queue)  # a driver whose backend was replaced may wait for an interrupt that died with it

    def _stop_ring(self, index: int) -> int:
        queue = lib.sc_blk_queue(self._blk, index)
        if queue.ready:
            self._rings[index].base = int(lib.sc_vq_base(queue))
            queue.ready = False
        fd, queue.kick_fd = queue.kick_fd, -1
        close_all((fd,))
        return self._rings[index].base

    def _forget_ring(self, index: int) -> None:
        queue = lib.sc_blk_queue(self._blk, index)
        for name in ("call_fd", "error_fd"):
            close_all((getattr(queue, name),))
            setattr(queue, name, -1)
        queue.enabled = False
        queue.size = 0
        self._rings[index] = Ring()

    def _drop_inflight(self) -> None:
        for index in range(self.num_queues):
            lib.sc_vq_set_inflight(lib.sc_blk_queue(self._blk, index), ffi.NULL)
        self._inflight = None  # unmapped when the last view of it is gone
