"""Disks: virtio-blk, vhost-user-blk, SCSI (facts 1.8; the user's document, "Disk Configuration")."""

from __future__ import annotations

from vmm_core.config.devices.common import (
    BLOCK_QUEUE_SIZE,
    BLOCK_QUEUES,
    BOOTINDEX,
    IOTHREAD,
    PACKED,
    both,
    other,
    pci,
)
from vmm_core.config.kinds import ID, Integer, Text
from vmm_core.config.records import BlkDevice, DeviceConfig, VhostUserBlkDevice
from vmm_core.config.table import Key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_DRIVE = Key("drive", ID, "id of a -drive", required=True)
_SERIAL = Key("serial", Text(1, 20), "serial number that the guest sees; at most 20 characters", "")
_QUEUES = Key("num-queues", BLOCK_QUEUES, "queues; default 1, on PCI one for each virtual CPU")
_SCSI_DISK = (
    _DRIVE,
    Key("bus", ID, "bus of the controller: its id and .0", required=True),
    Key("scsi-id", Integer(0, 255), "target", 0),
    Key("lun", Integer(0, 255), "logical unit", 0),
    Key("channel", Integer(0, 0), "channel", 0),
    _SERIAL,
    BOOTINDEX,
)

DEVICES = {
    **both(
        "virtio-blk",
        "a disk, served by a process of its own",
        (_DRIVE, _SERIAL, IOTHREAD, BOOTINDEX, _QUEUES, BLOCK_QUEUE_SIZE, PACKED),
        built=(True, False),
    ),
    **both(
        "vhost-user-blk",
        "a disk behind a foreign vhost-user socket",
        (
            Key("chardev", ID, "id of a chardev socket that connects", required=True),
            _QUEUES,
            BLOCK_QUEUE_SIZE,
            PACKED,
            BOOTINDEX,
        ),
        mark="B",
        built=(True, False),
    ),
    **pci(
        "virtio-scsi-pci",
        "a SCSI controller",
        (Key("num-queues", BLOCK_QUEUES, "request queues"), BLOCK_QUEUE_SIZE, IOTHREAD),
    ),
    **other("scsi-hd", "a SCSI disk", _SCSI_DISK, transport="scsi"),
    **other("scsi-cd", "a SCSI CD-ROM", _SCSI_DISK, transport="scsi"),
}
CHECKS: dict[str, Callable[[dict[str, Any]], None]] = {}


def _place(driver: str, values: dict[str, Any]) -> dict[str, Any]:
    slot, function = values["addr"] or (None, 0)
    return {
        "driver": driver,
        "id": values["id"] or "",
        "bus": values["bus"],
        "slot": slot,
        "function": function,
        "multifunction": values["multifunction"],
    }


def _blk(driver: str, values: dict[str, Any]) -> DeviceConfig:
    return BlkDevice(
        **_place(driver, values),
        drive=values["drive"],
        serial=values["serial"],
        iothread=values["iothread"],
        bootindex=values["bootindex"],
        num_queues=values["num-queues"] or 1,
        queue_size=values["queue-size"],
        packed=values["packed"],
    )


def _vhost_user_blk(driver: str, values: dict[str, Any]) -> DeviceConfig:
    return VhostUserBlkDevice(
        **_place(driver, values),
        chardev=values["chardev"],
        num_queues=values["num-queues"] or 1,
        queue_size=values["queue-size"],
        packed=values["packed"],
        bootindex=values["bootindex"],
    )


RECORDS = {"virtio-blk-device": _blk, "vhost-user-blk-device": _vhost_user_blk}
