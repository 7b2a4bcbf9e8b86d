"""What the guest's kernel reads before it runs: e820, zero page, MP table, ACPI. iasl is the oracle for ACPI."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from tests.unit.fake_memory import FakeMemory
from vmm_core.boot import acpi, aml, layout, mptable, zero_page
from vmm_core.boot.kernel import LoadedKernel
from vmm_core.errors import VmmError
from vmm_core.memory.table import RamRegion, split_around_hole

SLOTS = [(0xF0100000 + 0x200 * index, 0x200, 5 + index) for index in range(11)]
PLACES = acpi.Places(pm=(0x600, 16), reset=(0x64, 0xFE), com1=(0x3F8, 4), has_clock=False)
KERNEL = LoadedKernel(entry=0x100200, end=0x1000000, setup_header=b"", kind="raw")


def test_memory_above_the_hole_is_not_lost() -> None:
    memory = FakeMemory()
    pieces = split_around_hole(5 << 30, 0xC0000000, 1 << 32)
    assert pieces == [(0, 0xC0000000, 0), (1 << 32, 2 << 30, 0xC0000000)]
    memory.regions = tuple(
        RamRegion(gpa=gpa, size=size, fd=-1, offset=offset, host_address=0) for gpa, size, offset in pieces
    )
    ram = [(base, size) for base, size, kind in zero_page.e820_map(memory) if kind == zero_page.E820_RAM]
    assert ram == [(0, 0x9FC00), (0x100000, 0xC0000000 - 0x100000), (1 << 32, 2 << 30)]


def test_the_initrd_lies_as_high_as_the_kernel_can_reach(tmp_path: Path) -> None:
    path = tmp_path / "initrd"
    path.write_bytes(b"cpio" * 1000)
    memory = FakeMemory()
    address, size = zero_page.load_initrd(memory, str(path), KERNEL.end)
    assert size == 4000
    assert address == ((128 << 20) - 4000) & ~0xFFF
    assert memory.read(address, 8) == b"cpiocpio"


def test_an_initrd_that_would_overwrite_the_kernel_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "initrd"
    path.write_bytes(b"x" * (2 << 20))
    with pytest.raises(VmmError, match="do not fit between the kernel's end"):
        zero_page.load_initrd(FakeMemory(17 << 20), str(path), 16 << 20)


def test_a_command_line_too_long_for_its_place_is_refused() -> None:
    with pytest.raises(VmmError, match="-append"):
        zero_page.write_command_line(FakeMemory(), "x" * layout.COMMAND_LINE_ROOM)


def test_the_zero_page_names_initrd_command_line_and_rsdp() -> None:
    memory = FakeMemory()
    zero_page.write_zero_page(memory, KERNEL, (0x2000000, 1234), 0xE0000)
    page = memory.read(layout.ZERO_PAGE, 4096)
    assert page[0x202:0x206] == b"HdrS"
    assert struct.unpack_from("<H", page, 0x1FE)[0] == 0xAA55
    assert struct.unpack_from("<II", page, 0x218) == (0x2000000, 1234)
    assert struct.unpack_from("<I", page, 0x228)[0] == layout.COMMAND_LINE
    assert struct.unpack_from("<Q", page, 0x70)[0] == 0xE0000
    assert page[0x1E8] == 4


@pytest.mark.parametrize("cpus", [1, 4, 254])
def test_the_mp_table_lists_every_cpu_and_adds_up(cpus: int) -> None:
    memory = FakeMemory()
    mptable.write(memory, list(range(cpus)))
    place = next(base for base in (layout.EBDA, 0xF0000) if memory.read(base, 4) == b"_MP_")
    pointer = memory.read(place, 16)
    assert sum(pointer) & 0xFF == 0
    (table,) = struct.unpack_from("<I", pointer, 4)
    (length,) = struct.unpack_from("<H", memory.read(table, 44), 4)
    data = memory.read(table, length)
    assert data[:4] == b"PCMP"
    assert sum(data) & 0xFF == 0
    entries = data[44:]
    assert [entries[20 * index + 1] for index in range(cpus)] == list(range(cpus))


def test_every_acpi_table_adds_up_and_is_reachable_from_the_rsdp() -> None:
    memory = FakeMemory()
    rsdp = acpi.write(memory, [0, 1], SLOTS, PLACES)
    root = memory.read(rsdp, 36)
    assert (sum(root[:20]) & 0xFF, sum(root) & 0xFF) == (0, 0)
    xsdt = table_at(memory, struct.unpack_from("<Q", root, 24)[0])
    tables = [table_at(memory, address) for address in struct.unpack("<2Q", xsdt[36:])]
    assert [table[:4] for table in tables] == [b"FACP", b"APIC"]
    assert table_at(memory, struct.unpack_from("<Q", tables[0], 140)[0])[:4] == b"DSDT"
    assert struct.unpack_from("<I", tables[0], 36)[0] % 64 == 0, "FACS must be 64-byte aligned"


def table_at(memory: FakeMemory, address: int) -> bytes:
    (length,) = struct.unpack_from("<I", memory.read(address, 8), 4)
    table = memory.read(address, length)
    assert sum(table) & 0xFF == 0, table[:4]
    return table


@pytest.mark.skipif(shutil.which("iasl") is None, reason="iasl (acpica-tools) is missing")
def test_iasl_reads_back_every_device(tmp_path: Path) -> None:
    tables = {
        "dsdt": acpi.table(b"DSDT", 2, acpi.dsdt_body(SLOTS, (0x3F8, 4))),
        "facp": acpi.table(b"FACP", acpi.FADT_REVISION, acpi.fadt_body(0xE0040, 0xE0080, PLACES)),
        "apic": acpi.table(b"APIC", 4, acpi.madt_body([0, 1, 2])),
    }
    for name, data in tables.items():
        (tmp_path / f"{name}.aml").write_bytes(data)
        result = subprocess.run(
            ["iasl", "-d", f"{name}.aml"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
        )
        assert "rror" not in result.stdout + result.stderr, result.stdout + result.stderr
    text = (tmp_path / "dsdt.dsl").read_text()
    assert text.count('"LNRO0005"') == 11
    assert "0xF0101400" in text
    assert 'EisaId ("PNP0501")' in text
    assert "_S5" in text


@pytest.mark.parametrize(
    ("value", "encoded"),
    [(0, "00"), (1, "01"), (2, "0a02"), (0x100, "0b0001"), (1 << 16, "0c00000100"), (1 << 32, "0e0000000001000000")],
)
def test_aml_integers_take_their_shortest_form(value: int, encoded: str) -> None:
    assert aml.integer(value).hex() == encoded


@pytest.mark.parametrize("size", [1, 60, 61, 62, 63, 64, 4090, 4091, 4096, 70000])
def test_aml_lengths_count_themselves(size: int) -> None:
    encoded = aml.scope("\\_SB_", b"\xa3" * size)[1:]
    extra = encoded[0] >> 6
    length = (
        encoded[0] & 0x3F if extra == 0 else (encoded[0] & 0xF) | int.from_bytes(encoded[1 : 1 + extra], "little") << 4
    )
    assert length == len(encoded)
