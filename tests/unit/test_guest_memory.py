"""Guest memory: what a user asks for is what the guest gets; what cannot be had is refused before the guest runs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmm_core.config.records import GIB, MIB, MachineConfig, MemoryConfig
from vmm_core.errors import VmmError
from vmm_core.machine.microvm import SLOT_COUNT, VIRTIO_BASE, ram_pieces
from vmm_core.memory.guest_memory import GuestMemory
from vmm_core.memory.hugepages import open_backing_file

HUGE = 2 * MIB


def guest_memory(size: int, *, prealloc: bool = False) -> GuestMemory:
    config = MemoryConfig(size=size, max_size=size, prealloc=prealloc)
    return GuestMemory(config, MachineConfig(dump_guest_core=False), ram_pieces(size))


def test_memory_is_one_shared_file_that_a_backend_can_map_but_not_shrink() -> None:
    memory = guest_memory(128 * MIB)
    memory.write(0x5000, b"guest")
    assert os.pread(memory.fd, 5, 0x5000) == b"guest"
    with pytest.raises(PermissionError):
        os.ftruncate(memory.fd, 0)
    memory.close()


def test_four_gibibytes_lie_around_the_hole() -> None:
    memory = guest_memory(4 * GIB)
    low, high = memory.regions
    assert (low.gpa, low.end, high.gpa, high.end) == (0, 3 * GIB, 4 * GIB, 5 * GIB)
    assert high.host_address - low.host_address == high.offset == 3 * GIB
    memory.write(5 * GIB - 4, b"last")
    assert memory.read(5 * GIB - 4, 4) == b"last"
    for gpa in (3 * GIB - 2, 3 * GIB, 4 * GIB - 2, 5 * GIB - 2, -4):
        with pytest.raises(VmmError, match="do not lie in guest RAM"):
            memory.write(gpa, b"hole")
    memory.close()


@pytest.mark.parametrize("size", [128 * MIB, 3 * GIB, 3 * GIB + 2 * MIB, 4 * GIB, 512 * GIB])
def test_no_memory_that_a_backend_is_told_of_lies_where_devices_are(size: int) -> None:
    pieces = ram_pieces(size)
    assert sum(length for _gpa, length, _offset in pieces) == size
    for device in (VIRTIO_BASE, VIRTIO_BASE + SLOT_COUNT * 4096, 0xFEC0_0000, 0xFEE0_0000, 4 * GIB - 1):
        assert not [piece for piece in pieces if piece[0] <= device < piece[0] + piece[1]]


def test_preallocated_memory_is_there_before_the_guest_runs() -> None:
    memory = guest_memory(128 * MIB, prealloc=True)
    assert os.fstat(memory.fd).st_blocks * 512 >= 128 * MIB
    memory.close()


def test_memory_that_is_not_preallocated_costs_nothing_until_used() -> None:
    memory = guest_memory(128 * MIB)
    assert os.fstat(memory.fd).st_blocks == 0
    memory.close()


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [("missing/file", 128 * MIB, "No such file"), ("short", 128 * MIB, "they must be equal")],
)
def test_a_backing_file_that_does_not_fit_is_refused(tmp_path: Path, name: str, size: int, message: str) -> None:
    (tmp_path / "short").write_bytes(b"x")
    with pytest.raises(VmmError, match=message):
        open_backing_file(str(tmp_path / name), size)


def test_a_relative_memory_path_is_refused() -> None:
    with pytest.raises(VmmError, match="absolute"):
        open_backing_file("huge", 128 * MIB)


def test_a_directory_is_left_as_empty_as_it_was(tmp_path: Path) -> None:
    fd, page_size = open_backing_file(str(tmp_path), MIB)
    assert os.fstat(fd).st_size == MIB
    assert page_size == 4096
    os.close(fd)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def hugetlbfs(tmp_path: Path) -> Iterator[Path]:
    """A hugetlbfs mount with 8 pages of 2 MiB to its name."""
    options = f"pagesize=2M,size={8 * HUGE}"
    mounted = subprocess.run(["mount", "-t", "hugetlbfs", "-o", options, "none", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"hugetlbfs cannot be mounted: {mounted.stderr.decode().strip()}")
    pool = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
    before = int(pool.read_text())
    try:
        pool.write_text(str(before + 8))
        if int(pool.read_text()) < before + 8:
            pytest.skip("the kernel has no 8 free huge pages")
        yield tmp_path
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
        pool.write_text(str(before))


@pytest.mark.xdist_group("hugepages")
def test_huge_pages_are_reserved_or_the_vm_is_refused(hugetlbfs: Path) -> None:
    fd, page_size = open_backing_file(str(hugetlbfs), 4 * HUGE)
    assert page_size == HUGE
    with pytest.raises(VmmError, match=r"not enough free huge pages|cannot hold"):
        open_backing_file(str(hugetlbfs), 6 * HUGE)
    os.close(fd)
    fd, _ = open_backing_file(str(hugetlbfs), 6 * HUGE)
    os.close(fd)
    with pytest.raises(VmmError, match="not a multiple"):
        open_backing_file(str(hugetlbfs), HUGE + 4096)
