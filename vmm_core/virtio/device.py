"""The front half of a virtio device as a transport sees it: features, configuration, queues (virtio 1.2, section 2)."""

from __future__ import annotations

from vmm_core.config.record import Record
from vmm_core.errors import VmmError

ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, FAILED = 1, 2, 4, 8, 64, 128
F_VERSION_1, F_RING_PACKED, F_NOTIFICATION_DATA = 32, 34, 38

ID_BLOCK = 2


class DeviceBroken(VmmError):
    """The backend is gone or broke the protocol: the device is lost until it is reset, the VM goes on."""


class QueueSetup(Record):
    """A virtqueue as the driver set it up: its size, guest-physical addresses, doorbell and interrupt eventfd."""

    index: int
    size: int
    descriptors: int
    driver_area: int
    device_area: int
    kick_fd: int
    call_fd: int


class VirtioDevice:
    """What a transport drives. Calls come from vCPU threads, one at a time per device; any may raise DeviceBroken."""

    virtio_id: int = 0
    queue_sizes: tuple[int, ...] = ()

    def device_features(self) -> int:
        """Feature bits offered to the driver (64 bits)."""
        raise NotImplementedError

    def set_driver_features(self, features: int) -> None:
        """The driver's choice, a subset of `device_features`."""
        raise NotImplementedError

    def read_config(self, offset: int, length: int) -> bytes:
        """`length` bytes of configuration space; zeros beyond its end."""
        raise NotImplementedError

    def write_config(self, offset: int, data: bytes) -> None:
        raise NotImplementedError

    def set_status(self, status: int) -> None:
        """The driver's new status byte, other than 0."""

    def activate(self, queues: list[QueueSetup]) -> None:
        """DRIVER_OK: start the given queues."""
        raise NotImplementedError

    def reset(self) -> None:
        """The driver wrote status 0: stop all queues, forget features."""
        raise NotImplementedError
