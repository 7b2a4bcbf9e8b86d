"""A core that is killed leaves nothing behind: what an operator would otherwise have to hunt down."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.security.cell import gone_within

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = Path(__file__).with_name("core_program.py")


class Core:
    """A core in a process of its own, and pidfds of all that belongs to it."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        words = self.process.stdout.readline().split("\t")
        self.zygote, self.keeper, self.spawner, *self.backends = (int(word) for word in words)
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
