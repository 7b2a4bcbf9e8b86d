"""PCI bridges, pass-through and small PCI devices (facts 1.8)."""

from __future__ import annotations

from vmm_core.config.addresses import HOST_PCI_ADDRESS
from vmm_core.config.devices.common import pci
from vmm_core.config.kinds import PATH, Integer, words
from vmm_core.config.table import Key
from vmm_core.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_U8 = Integer(0, 255, hexadecimal=True)
_U64 = Integer(0, (1 << 64) - 1, hexadecimal=True)

DEVICES = {
    **pci(
        "pcie-root-port",
        "a slot for hot-plug; its id names the bus behind it",
        (
            Key("port", _U8, "number of the port", required=True),
            Key("chassis", _U8, "accepted without effect", mark="L"),
        ),
        mark="V",
    ),
    **pci(
        "vfio-pci",
        "a PCI device of the host",
        (
            Key("host", HOST_PCI_ADDRESS, "its address"),
            Key("sysfsdev", PATH, "its directory in sysfs"),
        ),
    ),
    **pci(
        "pvpanic",
        "reports a panic of the guest",
        (
            Key("supported-features", Integer(0, 3), "events the guest may report", 3),
            Key("dumpfile-path", PATH, "directory for dumps; default: the current one"),
        ),
    ),
    **pci(
        "pcie-demo-dev",
        "a demonstration",
        (
            Key(
                "device_type",
                words("demo-gpu", "demo-input", "demo-display"),
                "what it does",
                required=True,
                aliases=("device-type",),
            ),
            Key("bar_num", Integer(0, 5), "BARs", 0, aliases=("bar-num",)),
            Key("bar_size", _U64, "bytes in a BAR", 0, aliases=("bar-size",)),
        ),
    ),
}


def _check_vfio(values: dict[str, Any]) -> None:
    if (values["host"] is None) == (values["sysfsdev"] is None):
        raise VmmError("vfio-pci needs either host or sysfsdev")


CHECKS = {"vfio-pci": _check_vfio}
