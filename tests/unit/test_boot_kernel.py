"""A kernel file that a user names is loaded where its protocol says, or refused with one line."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.fake_memory import FakeMemory
from vmm_core.boot import kernel, layout
from vmm_core.boot.kernel import LoadedKernel
from vmm_core.errors import VmmError

Load = Callable[..., tuple[LoadedKernel, FakeMemory]]


def elf(
    entry: int = 0x1000040, physical: int = 0x1000000, virtual: int = 0xFFFFFFFF81000000, data: bytes = b"\x90" * 4096
) -> bytes:
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    program = struct.pack("<IIQQQQQQ", 1, 5, 120, virtual, physical, len(data), len(data) + 4096, 4096)
    return header + program + data


def bzimage(payload: bytes = b"", version: int = 0x20F, xloadflags: int = 1) -> bytes:
    setup = bytearray(1024)
    setup[0x1F1] = 1
    setup[0x201] = 0x66
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, version)
    struct.pack_into("<I", setup, 0x214, 0x100000)
    struct.pack_into("<H", setup, 0x236, xloadflags)
    struct.pack_into("<II", setup, 0x248, 0x300, len(payload))
    return bytes(setup) + b"\xcc" * 0x300 + payload


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load_bytes(
        data: bytes, memory: FakeMemory | None = None, *, decompress: bool = False
    ) -> tuple[LoadedKernel, FakeMemory]:
        path = tmp_path / "kernel"
        path.write_bytes(data)
        memory = memory or FakeMemory()
        return kernel.load(str(path), memory, decompress=decompress), memory

    return load_bytes


def test_a_bzimage_is_entered_at_its_64_bit_entry(load: Load) -> None:
    image, memory = load(bzimage(b"payload"))
    assert image.entry == 0x100200
    assert memory.read(0x100000, 4) == b"\xcc" * 4
    assert memory.read(0x100300, 7) == b"payload"
    assert image.setup_header[0x11:0x15] == b"HdrS"


def test_an_elf_vmlinux_is_entered_at_its_physical_entry(load: Load) -> None:
    image, memory = load(elf())
    assert (image.entry, image.end) == (0x1000040, 0x1002000)
    assert memory.read(0x1000000, 4096) == b"\x90" * 4096
    image, _ = load(elf(entry=0xFFFFFFFF81000040))
    assert image.entry == 0x1000040


def test_a_raw_image_is_loaded_and_entered_at_16_mib(load: Load) -> None:
    image, memory = load(b"\xf4 anything else")
    assert image.entry == layout.RAW_KERNEL
    assert memory.read(layout.RAW_KERNEL, 1) == b"\xf4"


def test_a_software_cpu_gets_the_kernel_unpacked(load: Load) -> None:
    image, memory = load(bzimage(gzip.compress(elf())), decompress=True)
    assert image.entry == 0x1000040
    assert memory.read(0x1000000, 16) == b"\x90" * 16


def test_an_lz4_payload_as_distributions_use_it_is_unpacked(load: Load) -> None:
    block = pytest.importorskip("lz4.block", reason="the lz4 package is missing")
    packed = block.compress(elf(), store_size=False)
    payload = b"\x02\x21\x4c\x18" + struct.pack("<I", len(packed)) + packed + struct.pack("<I", len(elf()))
    assert load(bzimage(payload), decompress=True)[0].entry == 0x1000040


@pytest.mark.parametrize(
    "payload",
    [
        b"\x02\x21\x4c\x18\x04\0\0\0\xff\xff\xff\xff",
        gzip.compress(b"no ELF", mtime=0),  # the same in every process that runs tests
        b"\x1f\x8b damaged",
        b"\xfd7zXZ\x00 damaged",
        b"unknown",
    ],
)
def test_a_payload_that_cannot_be_unpacked_is_left_to_the_guest(load: Load, payload: bytes) -> None:
    image, _ = load(bzimage(payload), decompress=True)
    assert image.entry == 0x100200


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (bzimage(version=0x20A), "no 64-bit entry"),
        (bzimage(xloadflags=0), "no 64-bit entry"),
        (bzimage()[:1100], "truncated"),
        (elf()[:40], "truncated ELF header"),
        (elf()[:100], "truncated ELF program headers"),
        (elf()[:500], "truncated ELF segment"),
        (elf(entry=0x10), "lies in no loaded segment"),
        (elf(physical=0x7FFFF000, entry=0x7FFFF000), "do not lie in guest RAM"),
        (b"\x7fELF\x01" + bytes(100), "not a 64-bit x86 ELF"),
    ],
)
def test_a_file_that_is_no_kernel_is_refused_with_one_line(load: Load, data: bytes, message: str) -> None:
    with pytest.raises(VmmError, match=message) as caught:
        load(data)
    assert "\n" not in str(caught.value)


def test_a_kernel_larger_than_memory_is_refused(load: Load) -> None:
    with pytest.raises(VmmError, match="do not fit"):
        load(b"x" * (2 << 20), FakeMemory(17 << 20))


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_damaged_kernel_never_crashes_the_loader(load: Load, data: st.DataObject) -> None:
    image = bytearray(data.draw(st.sampled_from([elf(), bzimage(gzip.compress(elf()))])))
    for _ in range(data.draw(st.integers(1, 8))):
        image[data.draw(st.integers(0, min(len(image), 0x280) - 1))] = data.draw(st.integers(0, 255))
    try:
        load(bytes(image), FakeMemory(20 << 20), decompress=data.draw(st.booleans()))
    except VmmError:
        pass
