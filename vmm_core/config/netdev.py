"""`-netdev` (facts 1.6; the user's document, "NIC Configuration", which shows vhostfd without vhost=on)."""

from __future__ import annotations

from vmm_core.config.addresses import DESCRIPTORS
from vmm_core.config.draft import add_unique
from vmm_core.config.kinds import BOOL, ID, PATH, Integer, Text
from vmm_core.config.table import Body, Key, by_name, read_class
from vmm_core.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm_core.config.draft import Draft

MAX_QUEUE_PAIRS = 16
_ID = Key("id", ID, "name of the host side", required=True)
_QUEUES = Key("queues", Integer(1, MAX_QUEUE_PAIRS), "queue pairs; at least as many as descriptors", 1)
_DESCRIPTOR = Integer(0, (1 << 20) - 1)

NETDEVS = by_name(
    (
        Body(
            "tap",
            "a tap interface",
            (
                _ID,
                Key("ifname", Text(1, 255, "NAME"), "name of the interface"),
                Key("fd", _DESCRIPTOR, "open tap descriptor"),
                Key("fds", DESCRIPTORS, "open tap descriptors, one for each queue pair"),
                Key("vhost", BOOL, "let the host's kernel move the packets", False),
                Key("vhostfd", _DESCRIPTOR, "open vhost-net descriptor"),
                Key("vhostfds", DESCRIPTORS, "open vhost-net descriptors, one for each queue pair"),
                _QUEUES,
                Key("path", PATH, "character device of the tap; needs ifname"),
                Key("macnat", BOOL, "translate MAC addresses; not with vhost", False),
            ),
        ),
        Body(
            "vhost-user",
            "a vhost-user backend",
            (_ID, Key("chardev", ID, "id of a chardev socket that connects", required=True), _QUEUES),
        ),
    )
)
BODIES = {"netdev": tuple(NETDEVS.values())}


def _read_netdev(draft: Draft, text: str) -> None:
    body, values = read_class(NETDEVS, text)
    if body.name == "tap":
        _check_tap(values)
    add_unique((other["id"] for _, other in draft.netdevs), values["id"], "Netdev")
    draft.netdevs.append((body, values))


def _check_tap(values: dict[str, Any]) -> None:
    for one, many in (("fd", "fds"), ("vhostfd", "vhostfds")):
        if values[one] is not None and values[many]:
            raise VmmError(f"{one} and {many} exclude each other")
    if values["ifname"] is None and values["fd"] is None and not values["fds"]:
        raise VmmError("a tap needs ifname, fd or fds")
    if values["path"] and values["ifname"] is None:
        raise VmmError("path needs ifname")
    if values["macnat"] and values["vhost"]:
        raise VmmError("macnat and vhost exclude each other")
    values["queues"] = max(values["queues"], len(values["fds"] or ()))
    if values["queues"] > MAX_QUEUE_PAIRS:
        raise VmmError(f"at most {MAX_QUEUE_PAIRS} queue pairs")


READERS = {"netdev": _read_netdev}
