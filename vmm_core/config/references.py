"""What one option says about another: names that must exist, and back ends that serve one user only (facts 1.3-1.9)."""

from __future__ import annotations

from vmm_core.config.kinds import quote
from vmm_core.config.records import MonitorConfig
from vmm_core.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm_core.config.draft import Draft
    from vmm_core.config.records import ChardevConfig, DriveConfig
    from vmm_core.config.table import Body

_CLIENT_DRIVERS = ("vhost-user-blk-device", "vhost-user-blk-pci", "vhost-user-gpu-pci")
_FS_DRIVERS = ("vhost-user-fs-device", "vhost-user-fs-pci")
_SYNCHRONOUS_DRIVERS = ("usb-storage", "usb-uas")
_IOTHREAD_KEYS = ("iothread", "rx-iothread", "tx-iothread")


class Resolver:
    """Looks names up, and remembers which single-user back ends are taken."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._chardevs = {chardev.id: chardev for chardev in draft.chardevs}
        self._drives = {drive.id: drive for drive in draft.drives if drive.interface == "none"}
        self._netdevs = {values["id"]: (body, values) for body, values in draft.netdevs}

    def resolve(self) -> None:
        """Check every reference of the line; the monitor's chardev becomes a monitor and is no chardev any more."""
        if self._draft.serial is not None:
            self._listening_chardev("-serial", self._draft.serial)
        if self._draft.monitor_chardev is not None:
            self._monitor(self._draft.monitor_chardev)
        for body, values in self._draft.netdevs:
            if body.name == "vhost-user":
                self._connecting_chardev(f"-netdev {values['id']}", values["chardev"])
        for body, values in self._draft.devices:
            self._device(body, values)
        for who, name in self._draft.iothread_users:
            self._iothread(who, name)

    def take_chardev(self, who: str, name: str) -> ChardevConfig:
        """Return a chardev that nobody else uses."""
        chardev = self._chardevs.pop(name, None)
        if chardev is None:
            raise VmmError(f'{who}: Chardev "{name}" not found or is in use')
        return chardev

    def _listening_chardev(self, who: str, name: str) -> ChardevConfig:
        chardev = self.take_chardev(who, name)
        if chardev.kind == "socket" and not (chardev.server and chardev.nowait):
            raise VmmError(f"{who}: chardev socket {quote(name)} needs server and nowait")
        return chardev

    def _connecting_chardev(self, who: str, name: str) -> None:
        chardev = self.take_chardev(who, name)
        if chardev.kind != "socket" or not chardev.path:
            raise VmmError(f"{who}: chardev {quote(name)} must be a socket with a path")
        if chardev.server or chardev.nowait:
            raise VmmError(f"{who}: chardev {quote(name)} must connect: server and nowait are not for vhost-user")

    def _monitor(self, name: str) -> None:
        chardev = self._listening_chardev("-mon", name)
        if chardev.kind != "socket":
            raise VmmError(f"-mon: chardev {quote(name)} must be a socket with server and nowait")
        kind, host = ("unix", None) if chardev.path else ("tcp", chardev.host)
        monitor = MonitorConfig(kind=kind, path=chardev.path, host=host, port=chardev.port)
        self._draft.monitors.append(monitor)
        self._draft.chardevs.remove(chardev)

    def _device(self, body: Body, values: dict[str, Any]) -> None:
        who = f"-device {body.name}"
        if values.get("drive"):
            self._drive(who, body, values["drive"])
        if values.get("netdev") and self._netdevs.pop(values["netdev"], None) is None:
            raise VmmError(f'{who}: Netdev "{values["netdev"]}" not found or is in use')
        if values.get("chardev"):
            self._device_chardev(who, body, values["chardev"])
        if values.get("rng"):
            self._object(who, values["rng"], "rng-random")
        if values.get("memdev"):
            self._object(who, values["memdev"], "memory-backend-")
        for key in _IOTHREAD_KEYS:
            if values.get(key):
                self._iothread(who, values[key])

    def _drive(self, who: str, body: Body, name: str) -> None:
        drive: DriveConfig | None = self._drives.pop(name, None)
        if drive is None:
            raise VmmError(f'{who}: Drive "{name}" not found or is in use')
        if body.transport == "mmio" and drive.format != "raw":
            raise VmmError(f"{who}: drive {quote(name)} must be format=raw on machine microvm")
        if body.name in _SYNCHRONOUS_DRIVERS and (drive.direct or drive.aio != "off"):
            raise VmmError(f"{who}: drive {quote(name)} must have aio=off,direct=off")

    def _device_chardev(self, who: str, body: Body, name: str) -> None:
        if body.name in _CLIENT_DRIVERS:
            self._connecting_chardev(who, name)
        elif body.name in _FS_DRIVERS:
            self.take_chardev(who, name)
            if not self._draft.machine.mem_share:
                raise VmmError(f"{who} needs -machine mem-share=on")
        else:
            self._listening_chardev(who, name)

    def _object(self, who: str, name: str, kind: str) -> None:
        if not self._draft.objects.get(name, "").startswith(kind):
            raise VmmError(f'{who}: Object "{name}" of type {kind.rstrip("-")} not found')

    def _iothread(self, who: str, name: str) -> None:
        if self._draft.objects.get(name) != "iothread":
            raise VmmError(f'{who}: iothread "{name}" not found')
