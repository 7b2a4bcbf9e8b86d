"""Sub-parameters that device tables share."""

from __future__ import annotations

from vmm_core.config.addresses import PCI_ADDRESS
from vmm_core.config.kinds import BOOL, ID, Integer
from vmm_core.config.table import Body, Key

DEVICE_ID = Key("id", ID, "name of the device")
# MMIO drivers read the PCI keys too: on a standard machine they make the driver its PCI twin, elsewhere they are
# refused with the reason.
MMIO_PLACE = (
    DEVICE_ID,
    Key("bus", ID, "PCI bus, such as pcie.0 (standard machines)"),
    Key("addr", PCI_ADDRESS, "slot and function on the bus (standard machines)"),
    Key("multifunction", BOOL, "the slot holds several functions (standard machines)", False),
)
PCI_PLACE = (
    DEVICE_ID,
    Key("bus", ID, "PCI bus, such as pcie.0", required=True),
    Key("addr", PCI_ADDRESS, "slot and function on the bus", required=True),
    Key("multifunction", BOOL, "the slot holds several functions", False),
)
IOTHREAD = Key("iothread", ID, "id of an iothread object")
BOOTINDEX = Key("bootindex", Integer(0, 255), "boot priority; the lowest number is first")
BLOCK_QUEUES = Integer(1, 32)
BLOCK_QUEUE_SIZE = Key("queue-size", Integer(3, 1024, power_of_two=True), "entries of a queue", 256)
PACKED = Key("packed", BOOL, "offer packed virtqueues; a guest that knows them takes them", True)


def both(
    stem: str, help: str, keys: tuple[Key, ...], *, mark: str = "V", built: tuple[bool, bool] = (False, False)
) -> dict[str, Body]:
    """Return the MMIO and the PCI driver of a virtio device."""
    mmio, pci = f"{stem}-device", f"{stem}-pci"
    return {
        mmio: Body(mmio, f"{help} (MMIO)", (*MMIO_PLACE, *keys), mark=mark, built=built[0], transport="mmio"),
        pci: Body(pci, f"{help} (PCI)", (*PCI_PLACE, *keys), mark=mark, built=built[1], transport="pci"),
    }


def pci(name: str, help: str, keys: tuple[Key, ...], *, mark: str = "B") -> dict[str, Body]:
    """Return a driver that exists on PCI only."""
    return {name: Body(name, help, (*PCI_PLACE, *keys), mark=mark, built=False, transport="pci")}


def other(name: str, help: str, keys: tuple[Key, ...], *, mark: str = "B", transport: str = "other") -> dict[str, Body]:
    """Return a driver that sits on neither."""
    return {name: Body(name, help, (DEVICE_ID, *keys), mark=mark, built=False, transport=transport)}
