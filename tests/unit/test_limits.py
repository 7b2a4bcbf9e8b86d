"""Limits without control groups: the scheduler and rlimits do what they can, and what they cannot is said."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, cast

import pytest

from tests.deadlines import Deadline
from vmm_core.config.records import BackendPolicy
from vmm_core.loop import EventLoop
from vmm_core.supervisor import limits as limits_module
from vmm_core.supervisor import scheduling
from vmm_core.supervisor.cgroup_files import Leaf
from vmm_core.supervisor.limits import Limits

EATER = "import sys; kept = bytearray(int(sys.argv[1])); print('ready', flush=True); sys.stdin.read()"


class NoGroups:
    """A host without control groups."""

    def delegated(self) -> bool:
        return False

    def leaf(self, role: str) -> Leaf:
        return Leaf(role, [])


class Group(Leaf):
    """A group for CPUs that notes what it is told."""

    def __init__(self) -> None:
        super().__init__("disk0", [])
        self.shares: list[int | None] = []
        self.members: tuple[int, ...] = ()

    def enter(self, *pids: int) -> None:
        self.members = pids

    def set_cpu_max(self, percent: int | None) -> bool:
        self.shares.append(percent)
        return True


class OneGroup(NoGroups):
    def __init__(self) -> None:
        self.group = Group()

    def leaf(self, role: str) -> Leaf:
        return self.group


class Process:
    """What `Limits` knows of a backend, around a process that holds memory."""

    name = "disk0"
    end_reason = ""

    def __init__(self, size: int) -> None:
        pipe = subprocess.PIPE
        self.popen = subprocess.Popen([sys.executable, "-c", EATER, str(size)], stdin=pipe, stdout=pipe)
        assert self.popen.stdout is not None
        self.popen.stdout.readline()
        self.pid = self.popen.pid

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)


@pytest.fixture
def process() -> Iterator[Process]:
    process = Process(48 << 20)
    yield process
    process.popen.kill()
    process.popen.communicate()


@pytest.fixture
def successor() -> Iterator[Process]:
    process = Process(0)
    yield process
    process.popen.kill()
    process.popen.communicate()


def limited(process: Process, groups: NoGroups | None = None, **limits: Any) -> tuple[Limits, EventLoop]:
    loop = EventLoop()
    made = Limits("disk0", BackendPolicy(**limits), loop, cast(Any, groups or NoGroups()))
    made.started(cast(Any, process))
    return made, loop


def by(made: Limits) -> dict[str, tuple[bool, str]]:
    return {str(each["limit"]): (bool(each["in-force"]), str(each["by"])) for each in made.report()}


def test_priority_and_cpus_are_the_schedulers(process: Process) -> None:
    made, _ = limited(process, nice=9, cpus=(0,))
    assert by(made) == {"nice": (True, "scheduler"), "cpus": (True, "CPU affinity")}
    assert os.getpriority(os.PRIO_PROCESS, process.pid) == 9
    assert os.sched_getaffinity(process.pid) == {0}


def test_whole_cpus_can_be_had_without_groups_and_shares_cannot(process: Process) -> None:
    assert by(limited(process, cpu_max=100)[0]) == {"cpu-max": (True, "CPU affinity")}
    assert len(os.sched_getaffinity(process.pid)) == 1
    good, why = by(limited(process, cpu_max=50)[0])["cpu-max"]
    assert not good
    assert why == "no control group for CPUs; CPU affinity bounds it to 100%"


def test_tasks_are_bounded_by_an_rlimit(process: Process) -> None:
    made, _ = limited(process, pids_max=500)
    assert by(made) == {"pids-max": (True, "rlimit NPROC")}
    assert resource.prlimit(process.pid, resource.RLIMIT_NPROC)[0] == 500


def test_io_without_a_disk_or_a_group_is_reported_and_not_dropped(process: Process) -> None:
    assert by(limited(process, io_read_bps=1 << 20)[0]) == {
        "io-read-bps": (False, "the image lies on no disk of the host")
    }


def test_memory_of_its_own_is_watched_without_groups(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_module, "MEMORY_INTERVAL", 0.01)
    made, loop = limited(process, memory_max=32 << 20)
    deadline = Deadline(10)
    while process.popen.poll() is None and deadline.left() > 0:
        loop.run_once(0.1)
    assert process.popen.returncode == -signal.SIGKILL
    assert made.memory_kills == 1
    made.close()


def test_a_backend_within_its_memory_is_left_alone(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_module, "MEMORY_INTERVAL", 0.01)
    made, loop = limited(process, memory_max=128 << 20)
    for _ in range(20):
        loop.run_once(0.02)
    assert process.popen.poll() is None
    assert made.memory_kills == 0
    made.close()


def test_a_lifted_limit_is_gone_from_the_report(process: Process) -> None:
    made, _ = limited(process, nice=3, pids_max=500)
    made.change(BackendPolicy(nice=3))
    assert by(made) == {"nice": (True, "scheduler")}


def test_a_limit_without_a_process_is_not_in_force() -> None:
    made = Limits("disk0", BackendPolicy(nice=3), EventLoop(), cast(Any, NoGroups()))
    assert by(made) == {"nice": (False, "no process")}


def test_nothing_is_in_force_between_two_processes_and_what_changes_is_for_the_next(
    process: Process, successor: Process
) -> None:
    groups = OneGroup()
    made, _ = limited(process, groups, cpu_max=50)
    assert by(made)["cpu-max"][0]
    process.end_reason = "was killed"
    made.change(BackendPolicy(cpu_max=25))
    assert by(made) == {"cpu-max": (False, "no process")}
    made.started(cast(Any, successor))
    assert by(made)["cpu-max"][0]
    assert groups.group.shares == [50, 25]


def test_a_limit_that_was_lifted_between_two_processes_does_not_hold_the_next(
    process: Process, successor: Process
) -> None:
    """A group outlives its processes, and what was written into it."""
    groups = OneGroup()
    made, _ = limited(process, groups, cpu_max=50)
    process.end_reason = "was killed"
    made.change(BackendPolicy())
    made.started(cast(Any, successor))
    assert groups.group.shares == [50, None]
    assert by(made) == {}


def test_the_group_holds_whoever_lives(process: Process, successor: Process) -> None:
    """After an upgrade that failed that is the old process, which the newcomer's start had pushed out of mind."""
    groups = OneGroup()
    made, _ = limited(process, groups, cpu_max=50)
    made.started(cast(Any, successor))
    assert groups.group.members == (process.pid, successor.pid)
    successor.end_reason = "was killed"
    made.change(BackendPolicy(cpu_max=20))
    assert list(groups.group.members) == [process.pid]


def test_a_process_that_has_ended_unheard_is_not_held_against_the_other(process: Process, successor: Process) -> None:
    made, _ = limited(process, nice=3, pids_max=500)
    successor.popen.kill()
    successor.popen.communicate()
    made.started(cast(Any, successor))
    assert by(made) == {"nice": (True, "scheduler"), "pids-max": (True, "rlimit NPROC")}
    assert os.getpriority(os.PRIO_PROCESS, process.pid) == 3


def test_a_limit_of_tasks_outlasts_the_sandbox_that_sets_its_own(process: Process) -> None:
    made, _ = limited(process, pids_max=500)
    resource.prlimit(process.pid, resource.RLIMIT_NPROC, (600, 600))
    made.confined()
    assert resource.prlimit(process.pid, resource.RLIMIT_NPROC) == (500, 600)
    made.change(BackendPolicy(pids_max=1000))
    assert by(made) == {"pids-max": (True, "rlimit NPROC")}
    assert resource.prlimit(process.pid, resource.RLIMIT_NPROC) == (600, 600)


def test_a_limit_that_cannot_be_lifted_is_reported(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = limited(process, nice=3)
    monkeypatch.setattr(scheduling, "set_nice", lambda _pid, _nice: (False, "Permission denied"))
    made.change(BackendPolicy())
    assert made.report() == [{"limit": "nice", "value": "none", "in-force": False, "by": "Permission denied"}]


def test_without_a_limit_a_backend_has_its_vms_priority(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def set_nice(_pid: int, nice: int) -> tuple[bool, str]:
        asked.append(nice)
        return True, "scheduler"

    monkeypatch.setattr(scheduling, "set_nice", set_nice)
    made, _ = limited(process, nice=19)
    made.change(BackendPolicy())
    assert asked == [19, os.getpriority(os.PRIO_PROCESS, 0)]


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        ({"memory_max": 64 << 20}, "64M"),
        ({"io_read_bps": 1536 << 10}, "1536K"),
        ({"cpus": (0, 1, 3)}, "0:1:3"),
        ({"cpu_max": 150}, "150%"),
        ({"nice": -3}, "-3"),
        ({"pids_max": None}, "none"),
    ],
)
def test_values_are_spelled_as_the_command_line_reads_them(limit: dict[str, Any], text: str) -> None:
    assert limits_module.spell(BackendPolicy(**limit), next(iter(limit))) == text
