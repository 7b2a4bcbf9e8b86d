"""Loading a kernel for the 64-bit entry: bzImage, ELF vmlinux, or a raw image.

Specification: facts 3.5; Linux Documentation/arch/x86/boot.rst.
"""

from __future__ import annotations

import os
import struct

from vmm_core.boot import layout
from vmm_core.config.record import Record
from vmm_core.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm_core.memory.guest_memory import GuestMemory

SETUP_HEADER = 0x1F1  # first byte of the setup header, in the file and in the zero page
BOOT_FLAG, HEADER_MAGIC, HEADER_MAGIC_OFFSET = 0xAA55, b"HdrS", 0x202
MIN_PROTOCOL_64 = 0x20C  # the first boot protocol whose xloadflags say "64-bit entry at +0x200"
XLF_KERNEL_64 = 1
ENTRY_64_OFFSET = 0x200
LOADER_UNDEFINED = 0xFF
ELF_MAGIC = b"\x7fELF"
MAX_PROBE = 4096


class LoadedKernel(Record):
    """`entry` is the guest-physical 64-bit entry; `setup_header` what the file says of itself, from 0x1F1 on."""

    entry: int
    end: int
    setup_header: bytes
    kind: str


def load(path: str, memory: GuestMemory, *, decompress: bool = False) -> LoadedKernel:
    """Put the kernel in `path` into guest memory; VmmError when it cannot be a kernel or does not fit.

    `decompress` unpacks a bzImage on the host, for a software CPU on which the kernel's own decompressor is slow.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            return _load(file.fileno(), path, memory, decompress)
    except OSError as error:
        raise VmmError(f"kernel {path}: {error.strerror}") from error


def _load(fd: int, path: str, memory: GuestMemory, decompress: bool) -> LoadedKernel:
    head = os.pread(fd, MAX_PROBE, 0)
    if head[HEADER_MAGIC_OFFSET : HEADER_MAGIC_OFFSET + 4] == HEADER_MAGIC:
        return _load_bzimage(fd, head, path, memory, decompress)
    if head[:4] == ELF_MAGIC:
        from vmm_core.boot import elf

        entry, end = elf.load(fd, path, memory)
        return LoadedKernel(entry=entry, end=end, setup_header=b"", kind="ELF")
    size = os.fstat(fd).st_size
    if size == 0:
        raise VmmError(f"kernel {path}: the file is empty")
    read_into(fd, 0, size, layout.RAW_KERNEL, memory, f"kernel {path}")
    return LoadedKernel(entry=layout.RAW_KERNEL, end=layout.RAW_KERNEL + size, setup_header=b"", kind="raw")


def _load_bzimage(fd: int, head: bytes, path: str, memory: GuestMemory, decompress: bool) -> LoadedKernel:
    setup_header = head[SETUP_HEADER : HEADER_MAGIC_OFFSET + head[0x201]]
    (version,) = struct.unpack_from("<H", head, 0x206)
    if version < MIN_PROTOCOL_64 or not struct.unpack_from("<H", head, 0x236)[0] & XLF_KERNEL_64:
        raise VmmError(
            f"kernel {path}: no 64-bit entry (boot protocol {version >> 8}.{version & 0xFF:02}, 2.12 or later needed)"
        )
    start = ((head[SETUP_HEADER] or 4) + 1) * 512
    size = os.fstat(fd).st_size - start
    if size <= ENTRY_64_OFFSET:
        raise VmmError(f"kernel {path}: truncated, {size} bytes after the setup code")
    if decompress:
        unpacked = _load_unpacked(fd, head, start, path, memory)
        if unpacked is not None:
            return LoadedKernel(entry=unpacked[0], end=unpacked[1], setup_header=setup_header, kind="bzImage, unpacked")
    (load_address,) = struct.unpack_from("<I", head, 0x214)
    read_into(fd, start, size, load_address, memory, f"kernel {path}")
    entry = load_address + ENTRY_64_OFFSET
    return LoadedKernel(entry=entry, end=load_address + size, setup_header=setup_header, kind="bzImage")


def _load_unpacked(fd: int, head: bytes, start: int, path: str, memory: GuestMemory) -> tuple[int, int] | None:
    from vmm_core.boot import elf, payload

    offset, length = struct.unpack_from("<II", head, 0x248)
    image = payload.unpack(os.pread(fd, length, start + offset))
    if image is None or image[:4] != ELF_MAGIC:
        return None
    return elf.load_bytes(image, path, memory)


def read_into(fd: int, offset: int, size: int, gpa: int, memory: GuestMemory, what: str) -> None:
    """Read `size` bytes of `fd` from `offset` into guest RAM at `gpa`; VmmError if they do not fit or end early."""
    try:
        target = memory.view(gpa, size)
    except VmmError as error:
        raise VmmError(f"{what}: {size >> 20} MiB do not fit into guest memory at {gpa:#x}") from error
    with target:
        done = 0
        while done < size:
            count = os.preadv(fd, [target[done:]], offset + done)
            if count == 0:
                raise VmmError(f"{what}: the file ended {size - done} bytes early")
            done += count
