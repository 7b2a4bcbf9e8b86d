"""Image locks of the backend that runs alone; started by the core, it gets an image that is locked already."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from backends.runtime.program import ProgramError

F_OFD_SETLK = 37
FLOCK = struct.Struct("hhqqi4x")  # struct flock on x86_64: type, whence, start, length, pid


def lock_image(fd: int, path: str, *, exclusive: bool) -> None:
    """Lock the whole image for as long as `fd` is open anywhere; ProgramError when another holds it."""
    kind = fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK
    try:
        fcntl.fcntl(fd, F_OFD_SETLK, FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise ProgramError(f"{path}: is in use by another process (its lock is held)") from error
        raise
