"""The filter of keeper and spawner, which every backend inherits: enough to fork, confine and begin, and no more."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from backends.runtime.zygote import POLICY
from ipc.confine.policy import ALLOW, read_policy
from ipc.confine.seccomp import compile_policy
from tests.security.cell import Cell
from tests.security.forked import Outcome, forked
from tools.paths import ROOT

POLICIES = sorted(path for path in (ROOT / "backends").rglob("seccomp.policy"))


def confined(action: str) -> Outcome:
    return forked(lambda: compile_policy(POLICY).load(), action)


@pytest.mark.parametrize(
    "action",
    [
        "syscall(101, 16, 1, 0, 0)",  # ptrace
        "syscall(308, 0, 0)",  # setns
        "syscall(310, 1, 0, 0, 0, 0, 0)",  # process_vm_readv
        "syscall(321, 0, 0, 0)",  # bpf
        "syscall(323, 0)",  # userfaultfd
        "syscall(304, -100, 0, 0)",  # open_by_handle_at
        "in_thread(lambda: syscall(250, 0, 0, 0, 0, 0))",  # keyctl
    ],
)
def test_what_only_an_intruder_does_ends_the_process(action: str) -> None:
    outcome = confined(action)
    assert outcome.signal == "SIGSYS"
    assert outcome.said.startswith("seccomp: forbidden system call, number")


@pytest.mark.parametrize(
    "action",
    [
        "__import__('socket').socket()",  # as the C library does when it looks up a user
        "os.kill(1, 0)",
        "os.kill(os.getpid(), 15)",
        "open('/tmp/stratocell-spawner-made-this', 'w')",
        "os.open('/tmp', os.O_TMPFILE | os.O_RDWR)",
        "os.unlink('/nonexistent')",
        "os.mkdir('/tmp/stratocell-spawner-made-this')",
        "os.chmod('/tmp', 0o1777)",
        "syscall(56, 0x10000011, 0, 0, 0, 0)",  # clone into a user namespace
        "syscall(53, 1, 1, 0, 0)",  # socketpair
        "syscall(16, 0, 0x5412, 0)",  # TIOCSTI
        "syscall(437, -100, 0, 0, 0)",  # openat2
    ],
)
def test_what_it_has_no_business_with_fails(action: str) -> None:
    assert confined(action).error == errno.EPERM


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.parent.name)
def test_a_backends_filter_allows_nothing_that_it_has_not_inherited(path: Path) -> None:
    inherited = {rule.name for rule in read_policy(POLICY).rules if rule.action == ALLOW}
    own = {rule.name for rule in read_policy(str(path)).rules if rule.action == ALLOW}
    assert own - inherited == set()


def seccomp_of(pid: int) -> str:
    lines = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    return lines["Seccomp"]


@pytest.mark.parametrize(("filtered", "mode"), [(True, "2"), (False, "0")])
def test_zygote_keeper_spawner_and_their_successors_are_under_it(filtered: bool, mode: str) -> None:
    cell = Cell(seccomp=filtered)
    peer = cell.ready()
    spawner, keeper = cell.spawner.pid, cell.spawner.keeper_pid
    assert [seccomp_of(pid) for pid in (cell.spawner.zygote_pid, keeper, spawner, peer.process.pid)] == [mode] * 4
    os.kill(spawner, signal.SIGKILL)
    cell.until(lambda: cell.spawner.pid not in (0, spawner))
    assert seccomp_of(cell.spawner.pid) == mode
    os.kill(keeper, signal.SIGKILL)
    cell.until(lambda: cell.spawner.keeper_pid not in (0, keeper))
    assert [seccomp_of(pid) for pid in (cell.spawner.keeper_pid, cell.spawner.pid)] == [mode] * 2
    cell.close()
