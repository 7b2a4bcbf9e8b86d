"""What a backend must know of its image: size, alignment of direct I/O, block size."""

from __future__ import annotations

import fcntl
import os
import stat
import struct

from backends.blk._blk import lib
from backends.runtime.device import DeviceError

BLKGETSIZE64, BLKSSZGET, BLKPBSZGET = 0x80081272, 0x1268, 0x127B
O_DIRECT = os.O_DIRECT
SAFE_ALIGNMENT = 4096  # where the kernel does not say


def size_of(fd: int) -> int:
    """Bytes in the image; DeviceError when it is neither a file nor a block device."""
    status = os.fstat(fd)
    if stat.S_ISBLK(status.st_mode):
        return int(struct.unpack("Q", fcntl.ioctl(fd, BLKGETSIZE64, bytes(8)))[0])
    if not stat.S_ISREG(status.st_mode):
        raise DeviceError("the image is neither a file nor a block device")
    return status.st_size


def is_direct(fd: int) -> bool:
    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & O_DIRECT)


def direct_alignment(fd: int) -> int:
    """To what offsets, lengths and addresses must be aligned, in bytes; 1 when the page cache is in between."""
    if not is_direct(fd):
        return 1
    if stat.S_ISBLK(os.fstat(fd).st_mode):
        return int(struct.unpack("i", fcntl.ioctl(fd, BLKSSZGET, bytes(4)))[0])
    return int(lib.sc_direct_alignment(fd)) or SAFE_ALIGNMENT


def physical_exponent(fd: int) -> int:
    """log2 of physical blocks per logical block of 512 bytes."""
    if not stat.S_ISBLK(os.fstat(fd).st_mode):
        return 3  # file systems work in pages
    physical = int(struct.unpack("I", fcntl.ioctl(fd, BLKPBSZGET, bytes(4)))[0])
    return max(0, min(7, (physical // 512).bit_length() - 1))
