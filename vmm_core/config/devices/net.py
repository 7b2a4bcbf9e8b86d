"""Network cards and vsock (facts 1.8; the user's document, "NIC Configuration" and "vsock Device Configuration")."""

from __future__ import annotations

from vmm_core.config.addresses import MAC
from vmm_core.config.devices.common import IOTHREAD, both
from vmm_core.config.kinds import BOOL, ID, Integer
from vmm_core.config.table import Key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

DEVICES = {
    **both(
        "virtio-net",
        "a network card",
        (
            Key("netdev", ID, "id of a -netdev", required=True),
            Key("mac", MAC, "MAC address; default 52:54:00:12:34:56 and up"),
            Key("mq", BOOL, "offer several queue pairs", False),
            IOTHREAD,
            Key("rx-iothread", ID, "id of an iothread object for receiving"),
            Key("tx-iothread", ID, "id of an iothread object for sending"),
            Key("queue-size", Integer(256, 4096, power_of_two=True), "entries of a queue", 256),
            Key("vectors", Integer(0, 2048), "accepted without effect", mark="L"),
        ),
    ),
    **both(
        "vhost-vsock",
        "sockets between guest and host",
        (
            Key("guest-cid", Integer(3, (1 << 32) - 1), "context id of the guest", required=True),
            Key("vhostfd", Integer(0, (1 << 20) - 1), "open vhost-vsock descriptor"),
        ),
    ),
}
CHECKS: dict[str, Callable[[dict[str, Any]], None]] = {}
