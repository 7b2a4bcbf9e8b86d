"""Checks of the whole configuration, and of the files that it names (facts 1.3 and 1.5).

A QMP monitor and ids on devices are not asked for, as they are by StratoVirt: the user's document has neither rule.
"""

from __future__ import annotations

import os
import stat

from vmm_core.config.kinds import quote
from vmm_core.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm_core.config.draft import Draft
    from vmm_core.config.records import DriveConfig, VmConfig


def check_combinations(draft: Draft) -> None:
    """Exclusions between options, from the options alone."""
    _check_stdio(draft)
    _check_bootindexes(draft)
    _check_drives(draft)
    if "pidfile" in draft.scalars and "daemonize" not in draft.scalars:
        raise VmmError("-pidfile must be used with -daemonize together.")
    if "mem-path" in draft.scalars and any("balloon" in body.name for body, _ in draft.devices):
        raise VmmError("-mem-path and a balloon device exclude each other: huge pages cannot be returned")
    accel = draft.accel or draft.machine.accel
    if ("mod-test" in draft.scalars) != (accel == "test"):
        raise VmmError("-mod-test and accel=test need each other")


def _check_stdio(draft: Draft) -> None:
    count = sum(chardev.kind == "stdio" for chardev in draft.chardevs)
    if count > 1:
        raise VmmError("Can't set multiple devices redirected to stdio")
    if count and "daemonize" in draft.scalars:
        raise VmmError("Can't redirect a device to stdio with -daemonize: a daemon has no terminal")


def _check_bootindexes(draft: Draft) -> None:
    seen: set[int] = set()
    for body, values in draft.devices:
        index = values.get("bootindex")
        if index is None:
            continue
        if index in seen:
            raise VmmError(f"-device {body.name}: bootindex {index} is already taken")
        seen.add(index)


def _check_drives(draft: Draft) -> None:
    for drive in draft.drives:
        if draft.machine.type == "microvm":
            if drive.interface == "pflash":
                raise VmmError("-drive if=pflash needs a standard machine: microvm has no firmware")
            if drive.format != "raw":
                raise VmmError(f"-drive {quote(drive.id)}: machine microvm takes format=raw only")


def check_listeners(draft: Draft) -> None:
    """Two listeners on one path: the second would take the first one's socket away."""
    paths = [monitor.path for monitor in draft.monitors] + [
        chardev.path for chardev in draft.chardevs if chardev.kind == "socket" and chardev.server
    ]
    seen: set[str] = set()
    for path in paths:
        if path is not None and path in seen:
            raise VmmError(f"the socket {quote(path)} is asked for twice")
        seen.add(path or "")


def check_host(config: VmConfig, rootless: bool) -> None:
    """Files that must exist or must not; `rootless`: nothing on the line could hold a root file system."""
    testing = config.machine.accel == "test"
    if config.boot.kernel is None and not testing:
        raise VmmError("kernel file is required for microvm machine type, which is not provided")
    if rootless and not testing:
        raise VmmError("Before Vm start, set a initrd or drive_file or vhost-user blk as rootfs")
    for what, path in (("kernel", config.boot.kernel), ("initrd", config.boot.initrd)):
        if path is not None and not stat.S_ISREG(_stat(f"-{what}", path).st_mode):
            raise VmmError(f"-{what}: {quote(path)} is not a regular file")
    _check_images(config.drives)
    if config.pidfile is not None and os.path.lexists(config.pidfile):
        raise VmmError(f"Pidfile path is existed yet. ({quote(config.pidfile)})")


def _check_images(drives: tuple[DriveConfig, ...]) -> None:
    seen: dict[tuple[int, int, int], DriveConfig] = {}
    for drive in drives:
        found = _stat(f"-drive {drive.id or 'if=pflash'}", drive.path)
        if stat.S_ISBLK(found.st_mode):
            identity = (0, 0, found.st_rdev)
        elif stat.S_ISREG(found.st_mode):
            identity = (1, found.st_dev, found.st_ino)
        else:
            raise VmmError(f"-drive: {quote(drive.path)} is neither a regular file nor a block device")
        other = seen.setdefault(identity, drive)
        if other is not drive and not (drive.readonly and other.readonly):
            raise VmmError(
                f"-drive: {quote(drive.path)} is used by drives {quote(other.id)} and {quote(drive.id)}; "
                "both must be readonly for that"
            )


def _stat(what: str, path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise VmmError(f"{what}: cannot open {quote(path)}: {error.strerror}") from None
