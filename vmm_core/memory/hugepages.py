"""`-mem-path`: guest RAM in a file, normally on a hugetlbfs mount (user's document, "Memory Huge Page")."""

from __future__ import annotations

import errno
import mmap
import os

from vmm_core.errors import VmmError


def open_backing_file(path: str, size: int) -> tuple[int, int]:
    """Return (descriptor, page size in bytes) of `size` bytes of RAM at `path`: a directory, or a file to use as it is.

    A file in a directory has no name, so nothing is left behind however the VM ends. The pool's pages are reserved
    here: a pool that is too small refuses the VM instead of killing it later with SIGBUS.
    """
    if not path.startswith("/"):
        raise VmmError(f"-mem-path {path}: must be an absolute path")
    fd = _open(path, size)
    try:
        page_size = os.fstatvfs(fd).f_bsize
        if size % page_size:
            raise VmmError(
                f"-mem-path {path}: memory size {size >> 20} MiB is not a multiple of "
                f"its page size {page_size >> 10} KiB"
            )
        _resize(fd, path, size)
        _reserve(fd, path, size, page_size)
    except BaseException:
        os.close(fd)
        raise
    return fd, page_size


def _open(path: str, size: int) -> int:
    try:
        if os.path.isdir(path):
            return os.open(path, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP and os.path.isdir(path):
            return _open_unlinked(path)
        raise VmmError(f"-mem-path {path}: {error.strerror}") from error


def _open_unlinked(directory: str) -> int:
    """hugetlbfs has no O_TMPFILE before Linux 5.x: make a file and remove its name at once."""
    name = f"{directory}/stratocell-{os.getpid()}"
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.unlink(name)
    return fd


def _resize(fd: int, path: str, size: int) -> None:
    present = os.fstat(fd).st_size
    if present not in (0, size):
        raise VmmError(f"-mem-path {path}: the file has {present} bytes, the VM has {size}; they must be equal")
    try:
        os.ftruncate(fd, size)
    except OSError as error:
        raise VmmError(f"-mem-path {path}: cannot hold {size >> 20} MiB: {error.strerror}") from error


def _reserve(fd: int, path: str, size: int, page_size: int) -> None:
    try:
        # Mapping without MAP_NORESERVE makes hugetlbfs set pages aside; the mapping itself is not needed.
        mmap.mmap(fd, size, mmap.MAP_SHARED).close()
    except OSError as error:
        raise VmmError(
            f"-mem-path {path}: not enough free huge pages for {size >> 20} MiB "
            f"({size // page_size} pages of {page_size >> 10} KiB needed): {error.strerror}"
        ) from error
