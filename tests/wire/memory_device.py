"""A device without hardware: it notes what the server told it, owns the descriptors it was given, and nothing more."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from backends.runtime.device import Device, DeviceError
from ipc import vhost_user as wire

if TYPE_CHECKING:
    from backends.runtime.device import MemoryRegion

VERSION_1 = 1 << 32
RING_PACKED = 1 << 34
CONFIG_SIZE = 60
WRITABLE = range(32, 33)  # of the configuration space: what a driver may write
REFUSED_BASE = 0xBAD  # a base that this device does not like


class MemoryDevice(Device):
    name = "memory device"
    features = VERSION_1 | RING_PACKED
    protocol_features = wire.bits(wire.INFLIGHT_SHMFD)
    num_queues = 4
    max_queue_size = 256

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.config = bytearray(range(CONFIG_SIZE))
        self.regions: dict[tuple[int, int, int], int] = {}
        self.ring_fds: dict[tuple[str, int], int] = {}
        self.log_fd = self.inflight_fd = -1
        self.bases = dict.fromkeys(range(self.num_queues), 0)
        self.started: set[int] = set()
        self.enabled: set[int] = set()
        self.acked = 0
        self.sessions = 0

    def set_features(self, acked: int) -> None:
        self.acked = acked

    def add_region(self, gpa: int, size: int, user_address: int, fd: int, offset: int) -> None:
        self.regions[gpa, size, user_address] = fd

    def remove_region(self, gpa: int, size: int, user_address: int) -> None:
        os.close(self.regions.pop((gpa, size, user_address)))

    def replace_regions(self, regions: list[MemoryRegion]) -> None:
        for fd in self.regions.values():
            os.close(fd)
        self.regions = {(region.gpa, region.size, region.user_address): region.fd for region in regions}

    def set_log(self, fd: int, offset: int, size: int) -> None:
        self.clear_log()
        self.log_fd = fd

    def clear_log(self) -> None:
        if self.log_fd >= 0:
            os.close(self.log_fd)
            self.log_fd = -1

    def vring_num(self, index: int, num: int) -> None:
        self.calls.append(("num", index, num))

    def vring_addr(self, index: int, flags: int, desc: int, used: int, avail: int, log: int) -> None:
        self.calls.append(("addr", index, flags, desc, used, avail, log))

    def vring_base(self, index: int, base: int) -> None:
        if base == REFUSED_BASE:
            raise DeviceError("this base is not for me")
        self.bases[index] = base

    def vring_kick(self, index: int, fd: int) -> None:
        self._replace("kick", index, fd)
        self.started.add(index)

    def vring_call(self, index: int, fd: int) -> None:
        self._replace("call", index, fd)

    def vring_err(self, index: int, fd: int) -> None:
        self._replace("err", index, fd)

    def vring_enable(self, index: int, enabled: bool) -> None:
        (self.enabled.add if enabled else self.enabled.discard)(index)

    def vring_stop(self, index: int) -> int:
        self._replace("kick", index, -1)
        self.started.discard(index)
        return self.bases[index]

    def get_config(self, offset: int, size: int) -> bytes:
        return bytes(self.config[offset : offset + size]).ljust(size, b"\0")

    def set_config(self, offset: int, data: bytes, flags: int) -> None:
        if flags == wire.CONFIG_WRITABLE and not all(place in WRITABLE for place in range(offset, offset + len(data))):
            raise DeviceError(f"read-only field at {offset}")
        self.config[offset : offset + len(data)] = data

    def inflight_layout(self, queues: int, queue_size: int) -> int:
        return queues * (16 + 16 * queue_size)

    def set_inflight(self, fd: int, size: int, offset: int, queues: int, queue_size: int) -> None:
        if self.inflight_fd >= 0:
            os.close(self.inflight_fd)
        self.inflight_fd = fd

    def set_status(self, status: int) -> None:
        self.calls.append(("status", status))

    def reset(self) -> None:
        self.calls.append(("reset",))
        self._drop_rings()

    def end_session(self) -> None:
        self.sessions += 1
        self._drop_rings()
        self.replace_regions([])
        self.clear_log()
        if self.inflight_fd >= 0:
            os.close(self.inflight_fd)
            self.inflight_fd = -1

    def close(self) -> None:
        self.end_session()

    def _replace(self, kind: str, index: int, fd: int) -> None:
        old = self.ring_fds.pop((kind, index), -1)
        if old >= 0:
            os.close(old)
        if fd >= 0:
            self.ring_fds[kind, index] = fd

    def _drop_rings(self) -> None:
        for fd in self.ring_fds.values():
            os.close(fd)
        self.ring_fds = {}
        self.bases = dict.fromkeys(range(self.num_queues), 0)
        self.started = set()
        self.enabled = set()
        self.acked = 0
