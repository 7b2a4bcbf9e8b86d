"""Where devices may sit, how many there may be, and the records of those that are built (facts 1.8)."""

from __future__ import annotations

from vmm_core.config.devices import FAMILIES, family
from vmm_core.config.draft import add_unique
from vmm_core.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm_core.config.draft import Draft
    from vmm_core.config.records import DeviceConfig
    from vmm_core.config.table import Body

MAX_DISKS, MAX_NICS, MAX_MMIO_DEVICES, MAX_PCI_DEVICES = 6, 2, 11, 32
_DISKS = ("virtio-blk-device", "vhost-user-blk-device")
_NICS = ("virtio-net-device",)
_ONE_OF_A_KIND = {
    "virtio-serial-device": "virtio-serial",
    "virtio-serial-pci": "virtio-serial",
    "virtio-balloon-device": "balloon",
    "virtio-balloon-pci": "balloon",
    "virtio-gpu-pci": "virtio-gpu",
    "nec-usb-xhci": "USB controller",
    "usb-kbd": "USB keyboard",
    "usb-tablet": "USB mouse",
}


def place(draft: Draft) -> None:
    """Check every device's bus, address and id, and the machine's limits; MMIO names with a bus become PCI names."""
    standard = draft.machine.type in ("q35", "virt")
    _check_ids(draft)
    _check_single(draft)
    draft.devices = [_settle(body, values, standard, draft.machine.type) for body, values in draft.devices]
    if standard:
        _check_pci_addresses(draft)
    else:
        _check_microvm_limits(draft)


def _check_ids(draft: Draft) -> None:
    seen: set[str] = set()
    for _, values in draft.devices:
        if values["id"]:
            add_unique(seen, values["id"], "Device")
            seen.add(values["id"])


def _check_single(draft: Draft) -> None:
    seen: set[str] = set()
    for body, _ in draft.devices:
        kind = _ONE_OF_A_KIND.get(body.name)
        if kind:
            if kind in seen:
                raise VmmError(f"-device {body.name}: only one {kind} can be configured")
            seen.add(kind)


def _settle(body: Body, values: dict[str, Any], standard: bool, machine: str) -> tuple[Body, dict[str, Any]]:
    if not standard:
        if body.transport in ("pci", "usb", "scsi"):
            twin = body.name.replace("-pci", "-device")
            instead = f"; use {twin}" if twin in FAMILIES and twin != body.name else ""
            raise VmmError(f"-device {body.name} needs a standard machine, not {machine}{instead}")
        given = [key for key in ("bus", "addr", "multifunction") if body.transport == "mmio" and values[key]]
        if given:
            raise VmmError(f"-device {body.name} takes no {given[0]} on machine {machine}, which has no PCI bus")
        return body, values
    if body.transport == "mmio":
        body = _pci_twin(body, values, machine)
    if body.transport == "pci" and not (values["bus"] and values["addr"]):
        raise VmmError(f"-device {body.name} needs bus= and addr=")
    return body, values


def _pci_twin(body: Body, values: dict[str, Any], machine: str) -> Body:
    """The user's document writes `virtio-blk-device,bus=pcie.0,addr=...` on a standard machine."""
    if not values["bus"]:
        raise VmmError(f"-device {body.name} is an MMIO device; on machine {machine} it needs bus= and addr=")
    twin = body.name.removesuffix("-device") + "-pci"
    found: Body = family(FAMILIES[twin]).DEVICES[twin]
    return found


def _check_pci_addresses(draft: Draft) -> None:
    seen: set[tuple[str, int, int]] = set()
    for body, values in draft.devices:
        if body.transport == "pci":
            slot, function = values["addr"]
            if (values["bus"], slot, function) in seen:
                raise VmmError(f"-device {body.name}: {values['bus']} {slot:#x}.{function:#x} is already taken")
            seen.add((values["bus"], slot, function))
    if len(seen) > MAX_PCI_DEVICES:
        raise VmmError(f"at most {MAX_PCI_DEVICES} PCI devices can be configured")


def _check_microvm_limits(draft: Draft) -> None:
    names = [body.name for body, _ in draft.devices if body.transport == "mmio"]
    limits = (
        (sum(name in _DISKS for name in names), MAX_DISKS, "disks"),
        (sum(name in _NICS for name in names), MAX_NICS, "network cards"),
        (len(names), MAX_MMIO_DEVICES, "virtio-mmio devices"),
    )
    for count, most, what in limits:
        if count > most:
            raise VmmError(f"machine {draft.machine.type} takes at most {most} {what}, not {count}")


def records(draft: Draft) -> tuple[DeviceConfig, ...]:
    """Return the records of all devices; call it when nothing unbuilt is left."""
    return tuple(family(FAMILIES[body.name]).RECORDS[body.name](body.name, values) for body, values in draft.devices)
