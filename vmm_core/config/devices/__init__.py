"""`-device`: every driver's name, the module that holds its table, and the reader (facts 1.8).

Only the modules of the drivers that a command line names are imported.
"""

from __future__ import annotations

from vmm_core.config.kinds import quote
from vmm_core.config.table import Body, read_body
from vmm_core.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm_core.config.draft import Draft

_MODULES = {
    "block": (
        "virtio-blk-device virtio-blk-pci vhost-user-blk-device vhost-user-blk-pci virtio-scsi-pci scsi-hd scsi-cd"
    ),
    "net": "virtio-net-device virtio-net-pci vhost-vsock-device vhost-vsock-pci",
    "character": "virtio-serial-device virtio-serial-pci virtconsole virtserialport",
    "memory": (
        "virtio-balloon-device virtio-balloon-pci virtio-rng-device virtio-rng-pci virtio-mem-device virtio-mem-pci "
        "virtio-pmem-device virtio-pmem-pci vhost-user-fs-device vhost-user-fs-pci"
    ),
    "display": (
        "virtio-gpu-pci vhost-user-gpu-pci virtio-input-device virtio-input-pci virtio-multitouch-device "
        "virtio-multitouch-pci ramfb ivshmem-scream"
    ),
    "usb": "nec-usb-xhci usb-kbd usb-tablet usb-consumer usb-storage usb-uas usb-camera usb-host",
    "pci": "pcie-root-port vfio-pci pvpanic pcie-demo-dev",
}
FAMILIES: dict[str, str] = {name: module for module, names in _MODULES.items() for name in names.split()}
ALIASES = {"usb-bkd": "usb-kbd"}  # the user's document spells it so


def family(module: str) -> Any:
    """Return a family's module; it has DEVICES, and may have CHECKS and RECORDS."""
    return __import__(f"{__name__}.{module}", None, None, ("DEVICES",))


def bodies() -> tuple[Body, ...]:
    """Return the tables of all drivers, for documents and completion."""
    return tuple(family(module).DEVICES[name] for name, module in FAMILIES.items())


def _read_device(draft: Draft, text: str) -> None:
    first, _, rest = text.partition(",")
    driver = ALIASES.get(first, first)
    module = FAMILIES.get(driver)
    if module is None:
        from vmm_core.config.suggest import hint

        raise VmmError(f"Unsupported device: {quote(first)}{hint(first, FAMILIES)}")
    devices = family(module)
    body: Body = devices.DEVICES[driver]
    values = read_body(body, rest)
    check = devices.CHECKS.get(driver)
    if check:
        check(values)
    draft.devices.append((body, values))


READERS = {"device": _read_device}
