"""A 64-bit x86 ELF `vmlinux`: its PT_LOAD segments at their physical addresses, entered at e_entry."""

from __future__ import annotations

import os
import struct

from vmm_core.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm_core.memory.guest_memory import GuestMemory

    Reader = Callable[[int, int], bytes]

EHDR, PHDR = struct.Struct("<16sHHIQQQIHHHHHH"), struct.Struct("<IIQQQQQQ")
CLASS_64, LITTLE_ENDIAN, MACHINE_X86_64, PT_LOAD = 2, 1, 62, 1
MAX_PROGRAM_HEADERS = 64


def load(fd: int, path: str, memory: GuestMemory) -> tuple[int, int]:
    """Load from a descriptor; returns (physical entry, end of the highest segment)."""
    length = os.fstat(fd).st_size

    def read(offset: int, size: int) -> bytes:
        return os.pread(fd, min(size, length - offset), offset) if offset < length else b""

    return _load(read, path, memory)


def load_bytes(image: bytes, path: str, memory: GuestMemory) -> tuple[int, int]:
    """Load from memory; returns (physical entry, end of the highest segment)."""
    return _load(lambda offset, size: image[offset : offset + size], path, memory)


def _load(read: Reader, path: str, memory: GuestMemory) -> tuple[int, int]:
    header = read(0, EHDR.size)
    if len(header) < EHDR.size:
        raise VmmError(f"kernel {path}: truncated ELF header")
    ident, _type, machine, _version, entry, phoff, _shoff, _flags, _ehsize, phentsize, phnum, *_ = EHDR.unpack(header)
    if ident[4] != CLASS_64 or ident[5] != LITTLE_ENDIAN or machine != MACHINE_X86_64:
        raise VmmError(f"kernel {path}: not a 64-bit x86 ELF file")
    if phentsize != PHDR.size or not 0 < phnum <= MAX_PROGRAM_HEADERS:
        raise VmmError(
            f"kernel {path}: {phnum} ELF program headers of {phentsize} bytes "
            f"(1 to {MAX_PROGRAM_HEADERS} of {PHDR.size} allowed)"
        )
    table = read(phoff, PHDR.size * phnum)
    if len(table) < PHDR.size * phnum:
        raise VmmError(f"kernel {path}: truncated ELF program headers")
    return _load_segments(read, list(PHDR.iter_unpack(table)), entry, path, memory)


def _load_segments(
    read: Reader, headers: list[tuple[int, ...]], entry: int, path: str, memory: GuestMemory
) -> tuple[int, int]:
    end = 0
    physical_entry = None
    for kind, _flags, offset, virtual, physical, file_size, memory_size, _align in headers:
        if kind != PT_LOAD:
            continue
        data = read(offset, file_size)
        if len(data) < file_size or memory_size < file_size:
            raise VmmError(f"kernel {path}: truncated ELF segment at {physical:#x}")
        memory.view(physical, memory_size).release()  # its zero-filled tail must fit, too
        memory.write(physical, data)
        end = max(end, physical + memory_size)
        if virtual <= entry < virtual + memory_size:
            physical_entry = entry - virtual + physical
        elif physical <= entry < physical + memory_size:
            physical_entry = entry
    if physical_entry is None:
        raise VmmError(f"kernel {path}: ELF entry {entry:#x} lies in no loaded segment")
    return physical_entry, end
