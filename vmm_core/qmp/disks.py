"""Disks while the guest runs: their throttle and their size (docs/blk.md, docs/qmp.md)."""

from __future__ import annotations

from typing import Annotated

import msgspec

from vmm_core.qmp.backends import disk_of
from vmm_core.qmp.errors import QmpError
from vmm_core.qmp.registry import Context, Deferred, command
from vmm_core.storage import OwnDisk

MAX_IOPS = 1_000_000  # as on the command line
MAX_SIZE = 1 << 62


class SetThrottle(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    """`iops-total`: requests a second on average, 0: no limit."""

    id: str
    iops_total: Annotated[int, msgspec.Meta(ge=0, le=MAX_IOPS)]


class Resize(msgspec.Struct, forbid_unknown_fields=True):
    """`size`: bytes to grow the image to; left out when somebody has resized it already."""

    id: str
    size: Annotated[int, msgspec.Meta(ge=0, le=MAX_SIZE)] = 0


@command("x-backend-set-throttle", SetThrottle)
def set_throttle(context: Context, arguments: SetThrottle) -> object:
    """At once, and for every later backend of the disk."""
    disk, answer = _own_disk(context, arguments.id), Deferred()

    def done(_said: object, reason: str) -> None:
        answer.settle(QmpError(reason) if reason else {"id": disk.name, "iops-total": disk.iops})

    disk.set_iops(arguments.iops_total, done)
    return answer


@command("x-backend-resize", Resize)
def resize(context: Context, arguments: Resize) -> object:
    """The guest is told of the new size, which the answer has in bytes."""
    disk, answer = _own_disk(context, arguments.id), Deferred()

    def done(_said: object, reason: str) -> None:
        answer.settle(QmpError(reason) if reason else {"id": disk.name, "size": disk.size})

    disk.resize(arguments.size, done)
    return answer


def _own_disk(context: Context, name: str) -> OwnDisk:
    disk = disk_of(context, name)
    if not isinstance(disk, OwnDisk):
        raise QmpError(f"the backend of {disk.name} is not ours: its own manager throttles and resizes it")
    return disk
