"""Image locks of the backend that runs alone; started by the core, it gets an image that is locked already."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time

from backends.runtime.program import ProgramError

F_OFD_SETLK = 37
PATIENCE, PAUSE = 5.0, 0.01  # seconds; a busy machine is slow to clear up
FLOCK = struct.Struct("hhqqi4x")  # struct flock on x86_64: type, whence, start, length, pid


def lock_image(fd: int, path: str, *, exclusive: bool) -> None:
    """Lock the whole image for as long as `fd` is open anywhere; ProgramError when another holds it.

    The kernel lets go of a dead process's io_uring, and so of its lock, a moment later: a successor waits for that.
    """
    end = time.monotonic() + PATIENCE
    while not _try(fd, fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK):
        if time.monotonic() > end:
            raise ProgramError(f"{path}: is in use by another process (its lock is held)")
        time.sleep(PAUSE)


def _try(fd: int, kind: int) -> bool:
    try:
        fcntl.fcntl(fd, F_OFD_SETLK, FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True
