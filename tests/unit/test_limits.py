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
from vmm_core.supervisor.cgroup_files import Leaf
from vmm_core.supervisor.limits import Limits

EATER = "import sys; kept = bytearray(int(sys.argv[1])); print('ready', flush=True); sys.stdin.read()"


class NoGroups:
    """A host without control groups."""

    def delegated(self) -> bool:
        return False

    def leaf(self, role: str) -> Leaf:
        return Leaf(role, [])


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


def limited(process: Process, **limits: Any) -> tuple[Limits, EventLoop]:
    loop = EventLoop()
    made = Limits("disk0", BackendPolicy(**limits), loop, cast(Any, NoGroups()))
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
