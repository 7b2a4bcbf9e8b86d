"""A disk's backend as the spawner starts it: one image, one front-end, for life."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.blk.device import BlkDevice
from backends.runtime import sandbox
from backends.runtime.control import ControlEnd
from backends.runtime.server import Server

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def serve(fds: dict[str, int], options: Mapping[str, Any]) -> None:
    """Serve `fds["image"]` to the front-end at `fds["vhost"]` until it hangs up; takes the descriptors over.

    `fds["stats"]`, if there is one, is where to count; `fds["control"]` is its end of the control bus.
    The sandbox is sealed when all threads and rings exist, before the front-end is heard.
    """
    device = BlkDevice(fds["image"], options, fds.get("stats", -1))
    control = ControlEnd(fds["control"], device)
    try:
        device.start()
        sandbox.seal()
        Server(device, control=control).serve_connection(fds["vhost"])
    finally:
        control.close()
    device.close()
