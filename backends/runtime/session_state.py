"""What a session knows of its front-end; the requests are in `*_requests.py`, the dispatch is in `session.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.runtime.device import DeviceError
from backends.runtime.memory_map import MemoryMap
from backends.runtime.ring_state import RingState
from ipc import vhost_user as wire

if TYPE_CHECKING:
    from backends.runtime.device import Device

SERVER_PROTOCOL_FEATURES = wire.bits(
    wire.MQ,
    wire.LOG_SHMFD,
    wire.REPLY_ACK,
    wire.BACKEND_REQ,
    wire.CONFIG_SPACE,
    wire.RESET,
    wire.CONFIGURE_MEM_SLOTS,
    wire.STATUS,
)
F_RING_PACKED = 34


class SessionState:
    """`features` and `protocol` are what the front-end acknowledged so far."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.features_offered = device.features | wire.VHOST_FEATURES
        self.protocol_offered = SERVER_PROTOCOL_FEATURES | device.protocol_features
        self.features = 0
        self.protocol = 0
        self.status = 0
        self.memory = MemoryMap()
        self.rings = [RingState() for _ in range(device.num_queues)]

    @property
    def packed(self) -> bool:
        """Whether rings are packed (VIRTIO_F_RING_PACKED)."""
        return bool(self.features >> F_RING_PACKED & 1)

    def has(self, protocol_feature: int) -> bool:
        """Whether this protocol feature (a bit number) was acknowledged."""
        return bool(self.protocol >> protocol_feature & 1)

    def check_stopped(self, what: str) -> None:
        """DeviceError while any ring runs."""
        if any(ring.started for ring in self.rings):
            raise DeviceError(f"{what} cannot change while rings run")
