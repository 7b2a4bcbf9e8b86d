"""The disks of a VM: their fronts in the machine, their backends behind vhost-user, and what happens when one dies."""

from __future__ import annotations

import os

from vmm_core import log
from vmm_core.config.records import BlkDevice, VhostUserBlkDevice
from vmm_core.disks import grow_image, open_image
from vmm_core.errors import VmmError
from vmm_core.loop import READ
from vmm_core.supervisor.guard import RUNNING
from vmm_core.supervisor.own import OwnGuard
from vmm_core.vhost.device import VhostUserDevice
from vmm_core.virtio import blk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm_core.config.records import ChardevConfig, DriveConfig
    from vmm_core.supervisor.backend import BackendProcess
    from vmm_core.supervisor.control import Done
    from vmm_core.supervisor.guard import Guard
    from vmm_core.supervisor.spawner import Spawner
    from vmm_core.vhost.dirty_log import DirtyLog
    from vmm_core.virtio.mmio import MmioTransport
    from vmm_core.vm import Vm


class Disk:
    """One disk of the guest. It is plugged in before its backend exists; the guest's first access waits for that."""

    def __init__(self, vm: Vm, device: BlkDevice | VhostUserBlkDevice, dirty_log: DirtyLog | None) -> None:
        self.name = blk.display_name(device)
        self.device = device
        self.guard: Guard
        self._vm = vm
        self._transport: MmioTransport | None = None
        self.front = VhostUserDevice(
            self.name,
            blk.ID_BLOCK,
            blk.queue_sizes(device),
            vm.memory.regions,
            needs_dirty_log=dirty_log,
            wanted_features=blk.offered_features(device),
            on_config_change=self._config_changed,
            on_broken=self._broken,
        )
        self._transport = vm.machine.add_virtio(self.name, self.front)
        vm.loop.add(self.front.channel_fd(), READ, lambda _events: self.front.on_channel_readable())

    @property
    def is_up(self) -> bool:
        """Whether a backend serves the disk, or is at least running."""
        return self.front.was_ready

    def _config_changed(self) -> None:
        if self._transport is not None:
            self._transport.config_changed()

    def _broken(self, reason: str) -> None:
        if self._transport is not None:
            self._transport.broken(reason)

    def _mended(self) -> None:
        if self._transport is not None:
            self._transport.mended()

    def close(self) -> None:
        self.guard.close()
        self._vm.loop.remove(self.front.channel_fd())
        self.front.close()


class OwnDisk(Disk):
    """A disk whose image the core opens and whose backend it starts, and starts again."""

    guard: OwnGuard

    def __init__(self, vm: Vm, device: BlkDevice, drive: DriveConfig, dirty_log: DirtyLog | None) -> None:
        self.iothread = device.iothread
        self._drive = drive
        self._image = open_image(drive)
        self._options = blk.backend_options(device, drive)
        self._spawner: Spawner | None = None
        super().__init__(vm, device, dirty_log)
        policy = vm.config.backend_policy(self.name)
        self.guard = OwnGuard(vm, self.name, self.front, policy, self._start_process)
        self.guard.on_mended = self._mended

    def start(self, spawner: Spawner) -> None:
        """Ask for the backend; returns at once."""
        self._spawner = spawner
        self.guard.start()

    def _start_process(
        self, on_end: Callable[[BackendProcess], None], renewed: bool, command: str
    ) -> tuple[BackendProcess, int]:
        from ipc.fds import pair

        assert self._spawner is not None
        account = self._vm.resources.account(self.name, blk.queue_sizes(self.device), self._image)
        strict = self.guard.policy.sandbox == "strict"
        ours, theirs = pair()
        try:
            process = self._spawner.start_backend(
                "blk",
                self.name,
                {"vhost": theirs, "image": self._image, **account.fds()},
                self._options,
                seccomp=self._vm.config.seccomp,
                on_end=on_end,
                renewed=renewed or strict,  # forked siblings would know its address layout
                strict=strict,
                command=command,
            )
        finally:
            os.close(theirs)
        return account.adopt(process), ours

    @property
    def iops(self) -> int:
        """Requests a second that the disk may do on average; 0: no limit."""
        return int(self._options["iops"] or 0)

    def set_iops(self, iops: int, done: Done) -> None:
        """Change that, for this backend and all that follow; `done(answer, reason)` comes later."""
        self._options["iops"] = iops
        self.guard.tell("throttle", {"iops": iops}, done)

    def resize(self, size: int, done: Done) -> None:
        """Grow the image to `size` bytes (0: somebody has), and show the guest; VmmError when that cannot be."""
        if size:
            grow_image(self._image, self._drive, size)
        self.guard.tell("resize", {}, done)

    @property
    def size(self) -> int:
        """Bytes of the image."""
        return os.lseek(self._image, 0, os.SEEK_END)

    @property
    def backend(self) -> BackendProcess | None:
        """The process that serves the disk now."""
        return self.guard.process

    @property
    def is_up(self) -> bool:
        return self.guard.pid != 0

    def close(self) -> None:
        """Hang up: the backend then finishes what it has in flight and ends; the spawner waits for that."""
        super().close()
        os.close(self._image)


class ForeignDisk(Disk):
    """A disk behind a vhost-user socket that somebody else serves."""

    def __init__(self, vm: Vm, device: VhostUserBlkDevice, chardev: ChardevConfig, dirty_log: DirtyLog | None) -> None:
        from vmm_core.supervisor.foreign import ForeignGuard
        from vmm_core.vhost.connect import connect

        policy = vm.config.backend_policy(blk.display_name(device))
        if policy.sandbox == "strict":
            raise VmmError(f"{blk.display_name(device)}: sandbox=strict: its backend is not ours to confine")
        sock = connect(str(chardev.path))
        super().__init__(vm, device, dirty_log)
        self.front.attach(sock)
        try:
            self.front.prepare()
        except VmmError as error:
            raise VmmError(f"{device.driver} {self.name}: {chardev.path}: {error}") from error
        self.guard = ForeignGuard(vm, self.name, self.front, policy, str(chardev.path))
        if vm.config.backends:
            from vmm_core.supervisor.limits import warn_of_foreign

            warn_of_foreign(policy, self.name)
        self.guard.on_mended = self._mended
        self.guard.state = RUNNING


def add_disks(vm: Vm, dirty_log: DirtyLog | None) -> list[Disk]:
    """Plug in every configured disk, in the order of the command line."""
    chardevs = {chardev.id: chardev for chardev in vm.config.chardevs}
    disks: list[Disk] = []
    for device in vm.config.devices:
        if isinstance(device, BlkDevice):
            disks.append(OwnDisk(vm, device, blk.drive_of(vm.config, device), dirty_log))
        elif isinstance(device, VhostUserBlkDevice):
            disks.append(ForeignDisk(vm, device, chardevs[device.chardev], dirty_log))
        else:
            raise VmmError(f"device {device.driver} is not built yet")
    return disks


def start_backends(disks: list[Disk], spawner: Spawner) -> None:
    """Ask the spawner for the backend of each of our disks."""
    for disk in disks:
        if isinstance(disk, OwnDisk):
            disk.start(spawner)
            log.debug(f"{disk.name}: backend asked for")
