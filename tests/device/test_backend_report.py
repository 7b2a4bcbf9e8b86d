"""`x-query-backends` on a real VM: what holds a backend, read back from the kernel, and what it has agreed on."""

from __future__ import annotations

import mmap
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deadlines import Deadline
from tests.processes import LIMIT, TestMachine
from vmm_core.machine.microvm import VIRTIO_BASE
from vmm_core.supervisor import report

MIB = 1 << 20
F_VERSION_1_HIGH = 1  # bit 32
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root may look into an undumpable process")


def disk_arguments(directory: Path, *policy: str) -> list[str]:
    image = directory / "disk.img"
    image.write_bytes(bytes(MIB))
    return [
        *("-drive", f"file={image},id=drive0,direct=off,aio=io_uring"),
        *("-device", "virtio-blk-device,drive=drive0,id=disk0"),
        *(word for one in policy for word in ("-backend", one)),
    ]


class Cell:
    """A VM with one disk, `disk0`."""

    def __init__(self, directory: Path, *policy: str) -> None:
        self.machine = TestMachine(directory, *disk_arguments(directory, *policy))
        self.qmp = self.machine.qmp()

    def backend(self) -> dict[str, Any]:
        """The disk's entry, once its backend is confined."""
        deadline = Deadline(LIMIT)
        while deadline.left() > 0:
            (entry,) = self.qmp.value("x-query-backends")
            sandbox = entry["sandbox"]
            if "missing" in sandbox and sandbox.get("seccomp", {}).get("filters") == 2:  # the spawner's and its own
                found: dict[str, Any] = entry
                return found
        raise AssertionError("the disk has no backend")

    def start_driver(self) -> None:
        """What a driver does up to DRIVER_OK: one split ring of 64."""
        for offset, value in (
            *((0x70, 0), (0x70, 3), (0x24, 1), (0x20, F_VERSION_1_HIGH), (0x70, 11)),
            *((0x30, 0), (0x38, 64), (0x80, 0x10000), (0x90, 0x11000), (0xA0, 0x12000), (0x44, 1), (0x70, 15)),
        ):
            self.machine.drive(f"writel {VIRTIO_BASE + offset:#x} {value:#x}")


@pytest.fixture
def cell(tmp_path: Path) -> Iterator[Cell]:
    cell = Cell(tmp_path)
    yield cell
    cell.machine.close()


def test_what_holds_a_backend_is_told_as_the_kernel_says(cell: Cell) -> None:
    sandbox = cell.backend()["sandbox"]
    assert (sandbox["mode"], sandbox["missing"], sandbox["no-new-privileges"]) == ("default", [], True)
    assert sandbox["capabilities"] == dict.fromkeys(report.CAPABILITIES.values(), 0)
    assert sandbox["landlock"] >= 1
    assert sandbox["uptime"] >= 0
    assert sandbox["cgroups"]
    if os.geteuid() == 0:
        assert sandbox["user"] > 2_000_000_000


@needs_root
def test_its_namespaces_and_descriptors_are_told_by_kind(cell: Cell) -> None:
    sandbox = cell.backend()["sandbox"]
    own = {kind for kind, facts in sandbox["namespaces"].items() if facts["own"]}
    assert own == {"pid", "mnt", "net", "ipc", "uts", "cgroup"}
    kinds = sandbox["descriptors"]
    assert (kinds["socket"], kinds["io_uring"], kinds["file"]) == (2, 1, 1)  # vhost-user and control
    assert set(kinds) <= {"socket", "io_uring", "file", "pipe", "eventfd", "character-device", "memfd", "eventpoll"}


@needs_root
def test_guest_memory_and_rings_appear_when_a_driver_starts(cell: Cell) -> None:
    assert cell.backend()["queues"] == []
    cell.start_driver()
    entry = cell.backend()
    assert entry["features"] == 1 << 32
    assert {"CONFIG", "REPLY_ACK", "INFLIGHT_SHMFD"} <= set(entry["protocol-features"])
    (queue,) = entry["queues"]
    assert queue == {"index": 0, "size": 64, "type": "split", "event-index": False, "last-avail": 0, "last-used": 0}
    shared = [region["name"] for region in entry["sandbox"]["memory-regions"] if region["permissions"][3] == "s"]
    assert any("guest-ram" in name for name in shared)
    writable = [each for each in entry["sandbox"]["memory-regions"] if "w" in each["permissions"]]
    assert not [each for each in writable if "x" in each["permissions"]]


def test_a_strict_backend_is_told_to_be_one(tmp_path: Path) -> None:
    cell = Cell(tmp_path, "default,sandbox=strict")
    assert cell.backend()["sandbox"]["mode"] == "strict"
    cell.machine.close()


def test_a_vm_whose_sandbox_must_be_strict_does_not_run_without_a_part_of_it(tmp_path: Path) -> None:
    machine = TestMachine(tmp_path, "-disable-seccomp", *disk_arguments(tmp_path, "disk0,sandbox=strict"))
    _, said = machine.process.communicate(timeout=LIMIT)
    machine.driver.close()
    assert machine.process.returncode == 1
    assert b"sandbox=strict, but the sandbox is without seccomp filter" in said


def test_a_process_that_is_gone_has_nothing_to_report() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert report.report(child.pid) == {}


def test_no_number_of_mappings_makes_a_long_report() -> None:
    fd = os.memfd_create("mapped again and again")
    os.ftruncate(fd, mmap.PAGESIZE)
    maps = [mmap.mmap(fd, mmap.PAGESIZE) for _ in range(2 * report.MAX_LISTED)]
    listed = report.memory_regions(os.getpid())
    assert listed is not None
    assert len(listed) == report.MAX_LISTED
    for each in maps:
        each.close()
    os.close(fd)
