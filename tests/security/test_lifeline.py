"""A core that is killed leaves nothing behind: what an operator would otherwise have to hunt down."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.deadlines import Deadline
from tests.security.cell import gone_within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PROGRAM = Path(__file__).with_name("core_program.py")


class Core:
    """A core in a process of its own, and pidfds of all that belongs to it."""

    def __init__(self, *arguments: str, within: Sequence[str] = ()) -> None:
        self.process = subprocess.Popen(
            [*within, sys.executable, str(PROGRAM), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        words = self.process.stdout.readline().rstrip("\n").split("\t")
        self.zygote, self.keeper, self.spawner, *self.backends = (int(word) for word in words if word.isdigit())
        self.missing = [word for word in words if not word.isdigit()]
        everybody = (self.zygote, self.keeper, self.spawner, *self.backends)
        self.pidfds = {pid: os.pidfd_open(pid) for pid in everybody}

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def left(self) -> list[int]:
        """Who is still there a second after the core's end."""
        if gone_within(list(self.pidfds.values()), 1.0):
            return []
        return [pid for pid, pidfd in self.pidfds.items() if not gone_within([pidfd], 0.0)]

    def close(self) -> None:
        self.kill()
        for pidfd in self.pidfds.values():
            os.close(pidfd)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


@pytest.fixture
def core(request: pytest.FixtureRequest) -> Iterator[Core]:
    made = Core(*getattr(request, "param", ("2",)))
    yield made
    made.close()


def test_a_killed_core_leaves_nothing_behind(core: Core) -> None:
    core.kill()
    assert core.left() == []


def test_a_stopped_backend_ends_with_the_core(core: Core) -> None:
    os.kill(core.backends[0], signal.SIGSTOP)
    core.kill()
    assert core.left() == []


@pytest.mark.parametrize("core", [("2", "spin")], indirect=True)
def test_a_spinning_backend_ends_with_the_core(core: Core) -> None:
    core.kill()
    assert core.left() == []


def test_everybody_ends_with_the_core_when_everybody_is_stopped(core: Core) -> None:
    for pid in core.pidfds:
        os.kill(pid, signal.SIGSTOP)
    core.kill()
    assert core.left() == []


@pytest.mark.parametrize("helper", ["zygote", "spawner", "keeper"])
def test_backends_end_with_the_core_when_a_helper_is_dead(core: Core, helper: str) -> None:
    os.kill(getattr(core, helper), signal.SIGKILL)
    core.kill()
    assert core.left() == []


def test_the_keepers_end_is_the_end_of_its_namespace(core: Core) -> None:
    os.kill(core.keeper, signal.SIGKILL)
    assert gone_within([core.pidfds[pid] for pid in (core.keeper, core.spawner, *core.backends)], 1.0)


WITHOUT_PID_NAMESPACES = ("unshare", "--user", "--map-root-user", "sh", "-c")
NO_MORE = 'echo 0 >/proc/sys/user/max_pid_namespaces && exec "$@"'


def test_without_a_pid_namespace_only_a_keepers_death_makes_another_keeper() -> None:
    core = Core("1", within=(*WITHOUT_PID_NAMESPACES, NO_MORE, "sh"))
    try:
        assert any("PID namespace" in line for line in core.missing)
        os.kill(core.keeper, signal.SIGKILL)
        until(lambda: core.keeper not in children(core.zygote) and settled(core.zygote))
        before = keepers(core.zygote)
        assert len(before) == 1
        assert core.spawner in children(core.zygote)  # which has outlived its keeper
        os.kill(core.spawner, signal.SIGKILL)
        until(lambda: core.spawner not in children(core.zygote) and settled(core.zygote))
        assert keepers(core.zygote) == before
    finally:
        core.close()


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def keepers(zygote: int) -> list[int]:
    return [pid for pid in children(zygote) if name_of(pid) == "keeper"]


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().rstrip("\n")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def settled(zygote: int) -> bool:
    """Whether it waits, and not for one that is to make a keeper."""
    waits = Path(f"/proc/{zygote}/stat").read_text().rpartition(")")[2].split()[0] == "S"
    return waits and "zygote" not in [name_of(pid) for pid in children(zygote)]


def until(condition: Callable[[], bool]) -> None:
    deadline = Deadline(20)
    while not condition():
        assert deadline.left() > 0
