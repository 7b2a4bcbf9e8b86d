"""What a running disk can be told on the control bus: its throttle, and that its image has another size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.runtime.device import DeviceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from backends.blk.device import BlkDevice
    from ipc.control import Message, Value

MAX_IOPS = 1_000_000_000


def throttle(device: BlkDevice, arguments: Mapping[str, Value]) -> Message:
    """`iops`: reads and writes a second on average, 0: no limit. At once, also for requests that wait."""
    iops = arguments.get("iops")
    if not isinstance(iops, int) or not 0 <= iops <= MAX_IOPS:
        raise DeviceError(f"iops={iops}: must be 0 to {MAX_IOPS}")
    device.set_iops(iops)
    return {"iops": iops}


def resize(device: BlkDevice, _arguments: Mapping[str, Value]) -> Message:
    """Look at the image's size again, and show it to the driver; returns `size` in bytes."""
    return {"size": device.refresh_size()}


COMMANDS: dict[str, Callable[[BlkDevice, Mapping[str, Value]], Message]] = {"throttle": throttle, "resize": resize}
