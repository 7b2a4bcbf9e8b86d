"""USB (facts 1.8; the user's document, "USB Keyboard and Mouse Configuration")."""

from __future__ import annotations

from vmm_core.config.devices.common import IOTHREAD, other, pci
from vmm_core.config.kinds import ID, Integer, Text
from vmm_core.config.table import Body, Key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_WHERE = (
    Key("bus", Text(1, 255), "accepted without effect", mark="L"),
    Key("port", Text(1, 255), "accepted without effect", mark="L"),
)
_PORTS = Integer(1, 254)
_U16 = Integer(0, 65535, hexadecimal=True)
_DRIVE = Key("drive", ID, "id of a -drive with aio=off,direct=off", required=True)


def _usb(name: str, help: str, *keys: Key, mark: str = "B") -> dict[str, Body]:
    return other(name, help, (*_WHERE, *keys), mark=mark, transport="usb")


DEVICES = {
    **pci(
        "nec-usb-xhci",
        "a USB controller; one in a VM",
        (
            Key("p2", _PORTS, "USB 2 ports"),
            Key("p3", _PORTS, "USB 3 ports"),
            IOTHREAD,
            Key("streams", Integer(0, 1), "bulk streams"),
        ),
        mark="V",
    ),
    **_usb("usb-kbd", "a keyboard; one in a VM", mark="V"),
    **_usb("usb-tablet", "a mouse with absolute position; one in a VM", mark="V"),
    **_usb("usb-consumer", "media keys"),
    **_usb("usb-storage", "a disk", _DRIVE),
    **_usb("usb-uas", "a disk with command queueing", _DRIVE),
    **_usb("usb-camera", "a camera", Key("cameradev", ID, "id of a -cameradev", required=True), IOTHREAD),
    **_usb(
        "usb-host",
        "a USB device of the host",
        Key("hostbus", Integer(0, 255), "its bus"),
        Key("hostaddr", Integer(0, 255), "its address"),
        Key("hostport", Text(1, 255), "its port"),
        Key("vendorid", _U16, "its vendor"),
        Key("productid", _U16, "its product"),
        Key("isobufs", Integer(1, 1024), "isochronous buffers", 4),
        Key("isobsize", Integer(1, 1024), "packets in a buffer", 32),
    ),
}
CHECKS: dict[str, Callable[[dict[str, Any]], None]] = {}
