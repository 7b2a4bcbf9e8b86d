"""Disks: the front half of each virtio-blk device, and what its backend is started with or connected to."""

from __future__ import annotations

from vmm_core.config.records import BlkDevice, VhostUserBlkDevice
from vmm_core.errors import VmmError
from vmm_core.virtio.device import F_RING_PACKED, F_VERSION_1, ID_BLOCK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm_core.config.records import DriveConfig, VmConfig

# Bits by name: virtio 1.2, 5.2.3 and 6. Whatever of these the backend offers, the guest is offered.
F_SIZE_MAX, F_SEG_MAX, F_RO, F_BLK_SIZE, F_FLUSH, F_TOPOLOGY, F_CONFIG_WCE, F_MQ = 1, 2, 5, 6, 9, 10, 11, 12
F_DISCARD, F_WRITE_ZEROES, F_INDIRECT_DESC, F_EVENT_IDX = 13, 14, 28, 29
OFFERED = sum(
    1 << bit
    for bit in (
        F_SIZE_MAX, F_SEG_MAX, F_RO, F_BLK_SIZE, F_FLUSH, F_TOPOLOGY, F_CONFIG_WCE, F_DISCARD, F_WRITE_ZEROES,
        F_INDIRECT_DESC, F_EVENT_IDX, F_VERSION_1, F_RING_PACKED,
    )
)  # fmt: skip


def offered_features(device: BlkDevice | VhostUserBlkDevice) -> int:
    """Feature bits that the disk may offer to its guest."""
    packed = 0 if device.packed else 1 << F_RING_PACKED
    return (OFFERED | (1 << F_MQ if device.num_queues > 1 else 0)) & ~packed


def queue_sizes(device: BlkDevice | VhostUserBlkDevice) -> tuple[int, ...]:
    return (device.queue_size,) * device.num_queues


def drive_of(config: VmConfig, device: BlkDevice) -> DriveConfig:
    """The drive that `device` names; VmmError when there is none."""
    for drive in config.drives:
        if drive.id == device.drive:
            return drive
    raise VmmError(f"{device.driver}: drive {device.drive!r} does not exist")


def display_name(device: BlkDevice | VhostUserBlkDevice) -> str:
    """What logs call the disk: its id, else its drive's or chardev's."""
    return device.id or (device.drive if isinstance(device, BlkDevice) else device.chardev)


def backend_options(device: BlkDevice, drive: DriveConfig) -> dict[str, str | int | bool | None]:
    """What `backends.blk` is told of the disk; sizes in bytes, rates per second."""
    return {
        "read_only": drive.readonly,
        "direct": drive.direct,
        "aio": drive.aio,
        "discard": drive.discard,
        "detect_zeroes": drive.detect_zeroes,
        "iops": drive.iops_total,
        "serial": device.serial,
        "num_queues": device.num_queues,
        "queue_size": device.queue_size,
        "iothread": device.iothread or "",
    }


__all__ = ["ID_BLOCK", "backend_options", "display_name", "drive_of", "offered_features", "queue_sizes"]
