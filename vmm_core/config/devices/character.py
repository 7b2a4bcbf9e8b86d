"""virtio-serial and its ports (facts 1.8; the user's document, "Console Device Configuration")."""

from __future__ import annotations

from vmm_core.config.devices.common import both, other
from vmm_core.config.kinds import ID, Integer
from vmm_core.config.table import Key
from vmm_core.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PORT = (
    Key("chardev", ID, "id of a -chardev", required=True),
    Key("nr", Integer(0, 30), "number of the port; default: the next free one"),
)
DEVICES = {
    **both(
        "virtio-serial",
        "a controller of consoles and ports; one in a VM",
        (Key("max-ports", Integer(1, 31), "ports at most; always 1 on MMIO", 31),),
    ),
    **other("virtconsole", "a console of the virtio-serial controller", _PORT, mark="V", transport="port"),
    **other("virtserialport", "a port of the virtio-serial controller", _PORT, mark="B", transport="port"),
}


def _check_port(values: dict[str, Any]) -> None:
    if values["nr"] == 0:
        raise VmmError("nr=0 is reserved for virtconsole")


CHECKS = {"virtserialport": _check_port}
