"""Every process of a VM gets out of the group that is handed down, though some are born and some end meanwhile."""

from __future__ import annotations

import os

import pytest

from vmm_core.supervisor import cgroups


class Groups:
    """Two groups in which things happen between any two looks."""

    def __init__(self, *events: tuple[str, int]) -> None:
        self.members = {"base": {10, 11}, "core": set[int]()}
        self._events = list(events)

    def read(self, path: str) -> str:
        return "\n".join(map(str, sorted(self.members[path.split("/")[0]])))

    def write(self, path: str, value: str) -> bool:
        if self._events:
            what, pid = self._events.pop(0)
            self.members["base"].discard(pid) if what == "ends" else self.members["base"].add(pid)
        pid = int(value)
        if pid not in self.members["base"]:
            return False  # ESRCH
        self.members["base"].remove(pid)
        self.members[path.split("/")[0]].add(pid)
        return True


@pytest.mark.parametrize(
    "events", [(), (("ends", 10),), (("ends", 11), ("forks", 12)), (("forks", 12), ("forks", 13), ("ends", 12))]
)
def test_nobody_is_left_behind(events: tuple[tuple[str, int], ...], monkeypatch: pytest.MonkeyPatch) -> None:
    groups = Groups(*events)
    monkeypatch.setattr(cgroups, "read", groups.read)
    monkeypatch.setattr(cgroups, "write", groups.write)
    assert cgroups._move_all("base", "core")
    assert groups.members["base"] == set()


def test_a_process_that_will_not_move_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "read", lambda path: "10")
    monkeypatch.setattr(cgroups, "write", lambda path, value: False)
    assert not cgroups._move_all("base", "core")


def test_a_process_that_ended_is_nobody_elses() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    assert cgroups._is_ours(child)
    os.waitpid(child, 0)
    assert cgroups._is_ours(child)
    assert not cgroups._is_ours(1)
