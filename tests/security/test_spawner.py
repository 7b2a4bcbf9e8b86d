"""Backends started, ended and replaced: what a VM would lose if the supervisor got it wrong."""

from __future__ import annotations

import os
import signal
from time import monotonic

import pytest

from backends.runtime.births import DEATHS
from tests.security.cell import Cell, gone_within, open_descriptors
from vmm_core.supervisor.backend import STATUS_LIMIT


def test_a_backend_serves_and_its_sandbox_stands(cell: Cell) -> None:
    peer = cell.ready(options={"greeting": "hello"})
    assert peer.ask("are you there") == "are you there"
    assert peer.process.missing == []


def test_options_arrive_as_they_were_given(cell: Cell) -> None:
    peer = cell.start(options={"greeting": "a b", "number": 7, "flag": True, "none": None})
    assert peer.hear() == "ready a b"


def test_the_exit_status_reaches_the_core(cell: Cell) -> None:
    peer = cell.ready()
    peer.say("exit 3")
    assert peer.ended().exit_status == 3
    assert peer.process.end_reason == "exited with status 3"
    assert cell.ended == [peer.process]


def test_a_signal_that_killed_it_is_named(cell: Cell) -> None:
    peer = cell.ready()
    peer.process.signal(signal.SIGKILL)
    assert peer.ended().end_reason == "was killed by SIGKILL"


def test_an_exception_is_one_line_with_its_place(cell: Cell) -> None:
    peer = cell.ready()
    peer.say("crash")
    assert peer.ended().exit_status == 1
    assert peer.process.last_lines[-1].startswith("internal error: ValueError: as told at echo_backend.py:")


def test_a_backend_that_does_not_exist_is_refused_with_its_name(cell: Cell) -> None:
    process = cell.spawner.start_backend("nosuch", "n", {}, {}, seccomp=True, on_end=cell.ended.append)
    cell.until(lambda: bool(process.end_reason))
    assert "could not be started" in process.end_reason
    assert "backends.nosuch" in process.end_reason


def test_options_that_cannot_be_sent_fail_the_backend_and_not_the_vm(cell: Cell) -> None:
    peer = cell.start(options={"greeting": "a\0b"})
    assert "cannot be asked" in peer.ended().end_reason
    assert cell.ready("second").ask("x") == "x"


def test_a_chatty_backend_cannot_flood_the_log(cell: Cell, capfd: object) -> None:
    peer = cell.ready()
    for number in range(60):
        assert peer.ask(f"say line {number}") == f"say line {number}"
    peer.say("exit 0")
    peer.ended()
    shown = [line for line in capfd.readouterr().err.splitlines() if ": line " in line]  # type: ignore[attr-defined]
    assert 1 <= len(shown) <= 41  # at most two seconds' worth


def test_the_spawners_death_costs_no_backend_and_no_later_start(cell: Cell) -> None:
    peer = cell.ready("first")
    cell.until(lambda: cell.spawner.pid > 0)
    old = cell.spawner.pid
    os.kill(old, signal.SIGKILL)
    cell.until(lambda: cell.spawner.pid not in (0, old))
    assert peer.ask("still here") == "still here"
    assert cell.ready("second").ask("me too") == "me too"


def test_spawners_that_die_again_and_again_cost_no_backend_and_come_back(cell: Cell) -> None:
    peer = cell.ready("first")
    for _ in range(DEATHS):
        cell.until(lambda: cell.spawner.pid > 0)
        old = cell.spawner.pid
        os.kill(old, signal.SIGKILL)
        assert peer.ask("still here") == "still here"
        cell.until(lambda old=old: cell.spawner.pid != old)  # type: ignore[misc]
    assert peer.ask("and here") == "and here"
    assert cell.ready("second").ask("me too") == "me too"


@pytest.mark.parametrize(
    ("stopped", "killed"), [("zygote_pid", "keeper_pid"), ("keeper_pid", "pid"), ("pid", "")], ids=str
)
def test_a_helper_that_somebody_stopped_goes_on_when_it_is_needed(cell: Cell, stopped: str, killed: str) -> None:
    cell.ready("first")
    cell.until(lambda: cell.spawner.pid > 0)
    os.kill(getattr(cell.spawner, stopped), signal.SIGSTOP)
    if killed:
        os.kill(getattr(cell.spawner, killed), signal.SIGKILL)
    peer = cell.start("second")
    cell.until(lambda: peer.process.confined or bool(peer.process.end_reason))
    assert cell.ready("third").ask("me too") == "me too"


def test_a_backend_that_outlived_its_spawner_still_tells_how_it_ended(cell: Cell) -> None:
    peer = cell.ready()
    cell.until(lambda: cell.spawner.pid > 0)
    old = cell.spawner.pid
    os.kill(old, signal.SIGKILL)
    cell.until(lambda: cell.spawner.pid not in (0, old))
    peer.say("exit 5")
    assert peer.ended().exit_status == 5


def test_the_keepers_death_is_told_at_once_and_costs_no_later_start(cell: Cell) -> None:
    peers = [cell.ready(f"echo{index}") for index in range(2)]
    cell.until(lambda: cell.spawner.keeper_pid > 0)
    old = cell.spawner.keeper_pid
    began = monotonic()
    os.kill(old, signal.SIGKILL)
    assert [peer.ended().end_reason for peer in peers] == ["was killed by SIGKILL"] * 2
    assert cell.ready("third").ask("me too") == "me too"
    assert monotonic() - began < STATUS_LIMIT, "somebody waited for a word that nobody was there to say"
    assert cell.spawner.keeper_pid not in (0, old)


def test_what_was_asked_of_a_dying_keeper_fails_or_is_done(cell: Cell) -> None:
    """Whoever asked hears of it either way, and can ask again."""
    cell.ready("first")
    cell.until(lambda: cell.spawner.keeper_pid > 0)
    os.kill(cell.spawner.keeper_pid, signal.SIGKILL)
    peer = cell.start("second")
    cell.until(lambda: bool(peer.process.end_reason) or peer.process.confined)
    assert cell.ready("third").ask("and I") == "and I"


def test_the_zygotes_death_costs_no_backend_and_no_later_start(cell: Cell) -> None:
    peer = cell.ready("first")
    cell.until(lambda: cell.spawner.keeper_pid > 0)
    os.kill(cell.spawner.zygote_pid, signal.SIGKILL)
    cell.until(lambda: cell.spawner.zygote_pid == 0)
    assert peer.ask("still here") == "still here"
    assert cell.ready("second").ask("me too") == "me too"


def test_without_zygote_and_keeper_backends_fail_with_a_reason(cell: Cell) -> None:
    peer = cell.ready("first")
    cell.until(lambda: cell.spawner.keeper_pid > 0)
    for pid in (cell.spawner.zygote_pid, cell.spawner.keeper_pid):
        os.kill(pid, signal.SIGKILL)
    assert peer.ended().end_reason == "was killed by SIGKILL"
    cell.until(lambda: cell.spawner.zygote_pid == cell.spawner.keeper_pid == 0)
    process = cell.start("second").ended()
    assert (process.end_reason, process.hopeless) == ("could not be started: there is no spawner", True)


def test_an_orderly_end_waits_for_backends_and_leaves_nobody_behind() -> None:
    cell = Cell()
    peers = [cell.ready(f"echo{index}") for index in range(3)]
    pidfds = [os.pidfd_open(peer.process.pid) for peer in peers]
    cell.close()
    assert gone_within(pidfds, 0.0)
    assert [process.end_reason for process in cell.ended] == ["exited with status 0"] * 3
    for pidfd in pidfds:
        os.close(pidfd)


def test_a_stuck_backend_does_not_hold_up_the_end_for_long() -> None:
    cell = Cell()
    peer = cell.ready()
    peer.say("spin")
    pidfd = os.pidfd_open(peer.process.pid)
    started = monotonic()
    cell.close()
    assert monotonic() - started < 4.0
    assert gone_within([pidfd], 1.0)
    os.close(pidfd)


def test_starting_and_ending_fifty_times_leaks_no_descriptor(cell: Cell) -> None:
    cell.ready("warm").hang_up()
    cell.until(lambda: len(cell.ended) == 1 and cell.spawner.pid > 0)
    before = open_descriptors()
    for index in range(50):
        peer = cell.ready(f"echo{index}")
        peer.hang_up()
        peer.ended()
    assert open_descriptors() == before


def test_a_vms_whole_spawner_leaks_no_descriptor() -> None:
    Cell().close()
    before = open_descriptors()
    for _ in range(5):
        cell = Cell()
        cell.ready()
        cell.close()
    assert open_descriptors() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root may look into an undumpable process")
def test_no_descriptor_of_the_core_reaches_a_backend(cell: Cell) -> None:
    inherited = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(inherited, True)
    try:
        other = Cell()
        peer = other.ready()
        count = len(os.listdir(f"/proc/{peer.process.pid}/fd"))
        other.close()
    finally:
        os.close(inherited)
    assert count == 6  # three standard ones, the socket, the control channel, the lifeline


def test_spawner_and_backends_may_run_on_every_cpu_of_the_core(cell: Cell) -> None:
    peer = cell.ready()
    for pid in (cell.spawner.zygote_pid, cell.spawner.keeper_pid, cell.spawner.pid, peer.process.pid):
        assert os.sched_getaffinity(pid) == os.sched_getaffinity(0)
