"""Limits and accounts of real backends, on the test accelerator: put in force, reported, changed, removed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.deadlines import Deadline
from tests.processes import LIMIT, RawQmp, TestMachine
from vmm_core.supervisor.cgroup_files import hierarchies

MIB = 1 << 20
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: control groups of v1, backends of another user")
GROUPS = pytest.mark.skipif(
    not any("cpu" in each.controllers and os.access(each.base, os.W_OK) for each in hierarchies()),
    reason="needs a control group for CPUs that we may change",
)
pytestmark = ROOT


class Cell:
    """A VM with one disk, `disk0`."""

    def __init__(self, directory: Path, *policy: str, device: str = "") -> None:
        image = directory / "disk.img"
        image.write_bytes(bytes(MIB))
        self.machine = TestMachine(
            directory,
            *("-drive", f"file={image},id=drive0,direct=off"),
            *("-device", f"virtio-blk-device,drive=drive0,id=disk0{device}"),
            *(word for one in policy for word in ("-backend", one)),
        )
        self.qmp: RawQmp = self.machine.qmp()

    def value(self, command: str, **arguments: object) -> Any:
        """What a command returns; events that come first are passed over."""
        message = self.qmp.ask(command, **arguments)
        while "event" in message:
            message = self.qmp.message()
        return message["return"]

    def stats(self) -> dict[str, Any]:
        """The disk's entry, once its backend runs and its limits are in force."""
        deadline = Deadline(LIMIT)
        while deadline.left() > 0:
            (entry,) = self.value("x-query-backend-stats", id="disk0")["backends"]
            if entry["pid"] and entry["process"]:
                found: dict[str, Any] = entry
                return found
        raise AssertionError("the disk has no backend")

    def limits(self) -> dict[str, tuple[str, bool]]:
        return {each["limit"]: (each["value"], each["in-force"]) for each in self.stats()["limits"]}


@pytest.fixture
def cell(tmp_path: Path) -> Iterator[Cell]:
    cell = Cell(tmp_path, "disk0,cpu-max=50%,memory-max=64M,pids-max=64,cpus=0,nice=7")
    yield cell
    cell.machine.close()


@GROUPS
def test_the_limits_of_the_command_line_are_in_force_before_anybody_asks(cell: Cell) -> None:
    assert cell.limits() == {
        "cpu-max": ("50%", True),
        "memory-max": ("64M", True),
        "pids-max": ("64", True),
        "cpus": ("0", True),
        "nice": ("7", True),
    }
    pid = cell.stats()["pid"]
    assert {os.getpriority(os.PRIO_PROCESS, thread.id) for thread in psutil.Process(pid).threads()} == {7}
    assert os.sched_getaffinity(pid) == {0}
    assert "backend-disk0" in Path(f"/proc/{pid}/cgroup").read_text()


@GROUPS
def test_a_new_process_gets_its_predecessors_limits(cell: Cell) -> None:
    first = cell.stats()["pid"]
    os.kill(first, signal.SIGKILL)
    while cell.qmp.message().get("event") != "BACKEND_DIED":
        pass
    entry = cell.stats()
    while entry["pid"] == first:
        entry = cell.stats()
    assert os.getpriority(os.PRIO_PROCESS, entry["pid"]) == 7
    assert "backend-disk0" in Path(f"/proc/{entry['pid']}/cgroup").read_text()


@GROUPS
def test_limits_change_and_go_while_the_vm_runs(cell: Cell) -> None:
    cell.stats()
    answer = cell.qmp.value("x-backend-set-limits", id="disk0", **{"cpu-max": "75%", "nice": "none", "cpus": "none"})
    values = {each["limit"]: each["value"] for each in answer["limits"]}
    assert values == {"cpu-max": "75%", "memory-max": "64M", "pids-max": "64"}
    core = cell.machine.process.pid
    assert os.getpriority(os.PRIO_PROCESS, cell.stats()["pid"]) == os.getpriority(os.PRIO_PROCESS, core)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"id": "disk0", "cpu-max": "0%"}, "cpu-max: a percentage"),
        ({"id": "disk0", "memory-max": "1K"}, "memory-max: a size from 4 MiB"),
        ({"id": "disk0", "cpus": ""}, "length >= 1"),
        ({"id": "disk1", "nice": "1"}, "there is no device 'disk1'"),
        ({"id": "disk0", "speed": "1"}, "unknown field `speed`"),
    ],
)
def test_a_wrong_limit_is_refused_and_changes_nothing(cell: Cell, arguments: dict[str, str], message: str) -> None:
    before = cell.limits()
    assert message in cell.qmp.ask("x-backend-set-limits", **arguments)["error"]["desc"]
    assert cell.limits() == before


@GROUPS
def test_no_control_group_outlives_its_vm(cell: Cell) -> None:
    groups = cell.stats()["cgroups"]
    assert groups
    cell.qmp.value("quit")
    cell.machine.wait()
    assert [group for group in groups if os.path.exists(os.path.dirname(group))] == []


@GROUPS
def test_groups_of_a_killed_core_are_removed_by_the_next_start(cell: Cell, tmp_path: Path) -> None:
    entry = cell.stats()
    backend = psutil.Process(entry["pid"])
    cell.machine.process.kill()
    cell.machine.wait()
    psutil.wait_procs([backend], timeout=Deadline(LIMIT).seconds)
    assert any(map(os.path.exists, entry["cgroups"]))
    (tmp_path / "next").mkdir()
    following = Cell(tmp_path / "next", "disk0,cpu-max=50%,memory-max=64M,pids-max=64,cpus=0")
    following.stats()
    following.machine.close()
    assert [group for group in entry["cgroups"] if os.path.exists(group)] == []


def test_a_backend_over_its_memory_is_killed_and_comes_back_and_the_vm_goes_on(tmp_path: Path) -> None:
    """An interpreter of its own, which `strict` asks for, is more than 4 MiB."""
    cell = Cell(tmp_path, "disk0,sandbox=strict")
    first = cell.stats()["pid"]
    cell.qmp.value("x-backend-set-limits", id="disk0", **{"memory-max": "4M"})
    event = cell.qmp.message()
    assert (event["event"], event["data"]["reason"]) == ("BACKEND_DIED", "was killed by SIGKILL")
    cell.value("x-backend-set-limits", id="disk0", **{"memory-max": "none"})
    entry = cell.stats()
    assert entry["pid"] != first
    assert entry["memory-kills"] >= 1
    assert cell.value("query-status")["running"] is True
    cell.machine.close()


def test_the_account_agrees_with_psutil(cell: Cell) -> None:
    entry = cell.stats()
    process, oracle = entry["process"], psutil.Process(entry["pid"])
    memory = oracle.memory_full_info()
    assert process["rss"] == pytest.approx(memory.rss, rel=0.1)
    assert process["pss"] == pytest.approx(memory.pss, rel=0.2)
    assert process["uss"] == pytest.approx(memory.uss, rel=0.2)
    assert process["threads"] == oracle.num_threads()
    deadline = Deadline(LIMIT)  # a backend that has just begun may open one between the two looks
    while cell.stats()["process"]["descriptors"] != oracle.num_fds():
        assert deadline.left() > 0
    assert process["written-chars"] == oracle.io_counters().write_chars
    assert process["cpu-user"] == pytest.approx(oracle.cpu_times().user, abs=0.1)


def test_without_limits_there_are_no_groups_and_nothing_to_report(tmp_path: Path) -> None:
    cell = Cell(tmp_path)
    entry = cell.stats()
    cell.machine.close()
    assert entry["limits"] == []
    assert "cgroups" not in entry


@GROUPS
def test_a_vm_without_limits_cleans_up_after_a_killed_one_too(cell: Cell, tmp_path: Path) -> None:
    entry = cell.stats()
    backend = psutil.Process(entry["pid"])
    cell.machine.process.kill()
    cell.machine.wait()
    psutil.wait_procs([backend], timeout=Deadline(LIMIT).seconds)
    (tmp_path / "next").mkdir()
    following = TestMachine(tmp_path / "next")
    client = following.qmp()
    client.value("query-status")
    following.close()
    assert [group for group in entry["cgroups"] if os.path.exists(group)] == []
