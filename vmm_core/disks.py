"""Opening disk images: the core opens and locks them, a backend only ever gets the descriptor."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct

from vmm_core.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm_core.config.records import DriveConfig

F_OFD_SETLK = 37
SECTOR = 512  # bytes
FLOCK = struct.Struct("hhqqi4x")  # struct flock on x86_64: type, whence, start, length, pid


def open_image(drive: DriveConfig) -> int:
    """Return a locked descriptor of the image; VmmError says why not. Close it when the disk is gone."""
    what = f"drive {drive.id}: {drive.path}"
    try:
        fd = os.open(drive.path, _open_flags(drive))
    except OSError as error:
        if error.errno == errno.EINVAL and drive.direct:
            raise VmmError(f"{what}: its file system has no direct I/O; use direct=off") from error
        raise VmmError(f"{what}: {error.strerror}") from error
    try:
        _check_kind(fd, what)
        lock_image(fd, what, exclusive=not drive.readonly)
    except BaseException:
        os.close(fd)
        raise
    return fd


def lock_image(fd: int, what: str, *, exclusive: bool) -> None:
    """Lock the whole image, shared for readers: a second writer is refused, here or in any other program that locks.

    The lock belongs to the open file description: it is held as long as any process, the backend included, has it open.
    """
    kind = fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK
    try:
        fcntl.fcntl(fd, F_OFD_SETLK, FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            other = "in use" if exclusive else "being written"
            raise VmmError(
                f"{what}: is {other} by another process (its lock is held); stop that one or use readonly=on"
            ) from error
        raise VmmError(f"{what}: cannot be locked: {error.strerror}") from error


def grow_image(fd: int, drive: DriveConfig, size: int) -> None:
    """Make the image `size` bytes long; VmmError when it is longer, is not a file, or there is no room."""
    what = f"drive {drive.id}: {drive.path}"
    present = os.lseek(fd, 0, os.SEEK_END)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise VmmError(f"{what}: is a block device: resize it where it was made, then ask again without a size")
    if drive.readonly:
        raise VmmError(f"{what}: is read-only")
    if size < present or size % SECTOR:
        raise VmmError(f"{what}: size {size}: must be a multiple of {SECTOR} and at least {present}, what it is now")
    try:
        os.ftruncate(fd, size)
    except OSError as error:
        raise VmmError(f"{what}: size {size}: {error.strerror}") from error


def _open_flags(drive: DriveConfig) -> int:
    flags = os.O_RDONLY if drive.readonly else os.O_RDWR
    return flags | os.O_CLOEXEC | (os.O_DIRECT if drive.direct else 0)


def _check_kind(fd: int, what: str) -> None:
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise VmmError(f"{what}: is neither a regular file nor a block device")
