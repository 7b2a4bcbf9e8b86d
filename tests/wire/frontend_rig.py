"""A VhostUserDevice with everything a transport and the main loop would give it, and a backend to talk to."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from vmm_core.memory.table import RamRegion
from vmm_core.vhost.device import VhostUserDevice
from vmm_core.vhost.dirty_log import DirtyLog
from vmm_core.virtio.device import ID_BLOCK, QueueSetup

if TYPE_CHECKING:
    from tests.wire.fake_backend import FakeBackend

MIB = 1 << 20
HIGH_GPA = 1 << 32


class Rig:
    """`device` is under test; `changes` and `broken` note what it told the transport."""

    def __init__(
        self, *, queues: int = 2, dirty_log: bool = False, timeout: float = 5.0, virtio_id: int = ID_BLOCK
    ) -> None:
        self.ram = os.memfd_create("guest-ram")
        os.ftruncate(self.ram, 2 * MIB)
        self.memory = (self.region(0, 0), self.region(HIGH_GPA, MIB))
        self.log = DirtyLog(HIGH_GPA + MIB) if dirty_log else None
        self._bells = [os.eventfd(0) for _ in range(2 * queues)]
        self.changes = 0
        self.broken: list[str] = []
        self.device = VhostUserDevice(
            "disk",
            virtio_id,
            (256,) * queues,
            self.memory,
            needs_dirty_log=self.log,
            wanted_features=1 << 32 | 1 << 34 | 0xFF,
            on_config_change=self._changed,
            on_broken=self.broken.append,
            timeout=timeout,
            drain_timeout=timeout,
        )

    def region(self, gpa: int, offset: int) -> RamRegion:
        return RamRegion(gpa=gpa, size=MIB, fd=self.ram, offset=offset, host_address=0x5555_0000_0000)

    def attach(self, backend: FakeBackend) -> FakeBackend:
        self.device.attach(backend.end)
        return backend

    def queues(self, *indexes: int) -> list[QueueSetup]:
        return [
            QueueSetup(
                index=index,
                size=128,
                descriptors=0x10000 * (index + 1),
                driver_area=0x10000 * (index + 1) + 0x1000,
                device_area=0x10000 * (index + 1) + 0x2000,
                kick_fd=self._bells[2 * index],
                call_fd=self._bells[2 * index + 1],
            )
            for index in indexes
        ]

    def drive(self, *indexes: int, features: int = 1 << 32) -> None:
        """What a guest's driver does, up to DRIVER_OK."""
        self.device.device_features()
        self.device.set_driver_features(features)
        self.device.set_status(15)
        self.device.activate(self.queues(*(indexes or (0, 1))))

    def close(self) -> None:
        self.device.close()
        if self.log is not None:
            self.log.close()
        for fd in (self.ram, *self._bells):
            os.close(fd)

    def _changed(self, *_: Any) -> None:
        self.changes += 1
