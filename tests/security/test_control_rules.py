"""Whoever breaks the rules of the control bus loses his process, never somebody else's: the device gets another."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.security.cell import Cell
from vmm_core.config.records import BackendPolicy
from vmm_core.supervisor.backend import BackendProcess
from vmm_core.supervisor.own import OwnGuard

ROGUE = "tests.security.rogue_backend"


class Front:
    """As much of a device's front half as its guard looks at."""

    was_ready, is_active = True, False

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []
        self.lost: list[str] = []

    def supervise(self, **hooks: Callable[..., object]) -> None:
        self._ready = hooks["on_ready"]

    def attach(self, fd: int, _is_stopped: Callable[[], bool]) -> None:
        self.sockets.append(socket.socket(fileno=fd))

    def prepare(self) -> None:
        self._ready()

    def lose(self, reason: str) -> None:
        self.lost.append(reason)


class Guarded:
    """A rogue, and a neighbour of the same spawner, each with a guard."""

    def __init__(self, offence: str) -> None:
        self.cell = Cell(ROGUE)
        self.events: list[tuple[str, dict[str, Any]]] = []
        vm: Any = SimpleNamespace(loop=self.cell.loop, emit=lambda name, data: self.events.append((name, data)))
        self.fronts = [Front(), Front()]
        self.guards = [
            OwnGuard(vm, name, front, BackendPolicy(), lambda *how: self._start(offence, *how))  # type: ignore[arg-type]
            for name, front in zip(("rogue", "neighbour"), self.fronts, strict=True)
        ]
        for guard in self.guards:
            guard.start()
        self.cell.until(lambda: all(guard.pid for guard in self.guards))

    def _start(self, offence: str, on_end: Any, _renewed: bool, _command: str) -> tuple[BackendProcess, int]:
        ours, theirs = socket.socketpair()
        with theirs:
            process = self.cell.spawner.start_backend(
                ROGUE, "rogue", {"vhost": theirs.fileno()}, {"offence": offence}, seccomp=True, on_end=on_end
            )
        return process, ours.detach()

    def close(self) -> None:
        for guard, front in zip(self.guards, self.fronts, strict=True):
            guard.close()
            for sock in front.sockets:
                sock.close()
        self.cell.close()


@pytest.fixture
def guarded(request: pytest.FixtureRequest) -> Iterator[Guarded]:
    made = Guarded(request.param)
    yield made
    made.close()


OFFENCES = {
    "flood": "an answer that nobody asked for",
    "malformed": "not a message",
    "descriptor": "descriptors, where none are allowed",
    "deaf": "",
}


@pytest.mark.parametrize(("guarded", "said"), OFFENCES.items(), indirect=["guarded"], ids=OFFENCES)
def test_an_offender_is_replaced_and_its_neighbour_is_not(guarded: Guarded, said: str) -> None:
    rogue, neighbour = guarded.guards
    before, bystander = rogue.pid, neighbour.pid
    os.write(guarded.fronts[0].sockets[0].fileno(), b"!")
    guarded.cell.until(lambda: rogue.restarts == 1 and rogue.pid not in (0, before))
    assert [name for name, _data in guarded.events] == ["BACKEND_DIED", "BACKEND_RESTARTED"]
    assert said in guarded.events[0][1]["reason"]
    assert (neighbour.pid, neighbour.restarts) == (bystander, 0)
