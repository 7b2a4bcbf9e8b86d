"""How a VM ends and how it is held: power-off, reboot, crash, QMP, signals; and that nothing is left behind."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

import psutil
import pytest

from tests.deadlines import Deadline
from tests.guest.harness import Guest, Plan, start


@pytest.mark.rig
@pytest.mark.parametrize(
    "command",
    [
        pytest.param("poweroff -f", id="power-off"),
        pytest.param("reboot -f", id="reboot"),
        pytest.param("echo c >/proc/sysrq-trigger", id="kernel-panic"),
    ],
)
def test_a_guest_that_ends_itself_ends_the_vm_with_an_event_and_status_0(plan: Plan, command: str) -> None:
    with start(plan) as guest:
        guest.wait_ready()
        monitor = guest.qmp
        guest.console.send(command + "\n")
        assert monitor.wait_event("SHUTDOWN")["data"]["guest"] is True
        assert guest.wait_exit() == 0


def test_a_triple_fault_ends_the_vm_like_a_reboot(plan: Plan) -> None:
    plan.append = "reboot=t"
    with start(plan) as guest:
        guest.wait_ready()
        monitor = guest.qmp
        guest.console.send("reboot -f\n")
        assert monitor.wait_event("SHUTDOWN")["data"]["guest"] is True
        assert guest.wait_exit() == 0


@pytest.mark.rig
def test_a_stopped_guest_is_silent_and_goes_on_where_it_was(guest: Guest) -> None:
    assert guest.qmp.execute("query-status")["status"] == "running"
    guest.console.check("(while :; do echo tick; usleep 20000; done) >/dev/ttyS0 & echo $! >/tmp/pid")
    guest.console.wait_for("tick")
    guest.qmp.execute("stop")
    guest.qmp.wait_event("STOP")
    while not guest.console.is_silent(0.3):
        pass  # what was under way when the VM stopped
    assert guest.qmp.execute("query-status") == {"running": False, "singlestep": False, "status": "paused"}
    guest.qmp.execute("cont")
    guest.qmp.wait_event("RESUME")
    guest.console.wait_for("tick")
    guest.console.check("kill $(cat /tmp/pid); cd /usr/share/stratocell && sha256sum -c SHA256SUMS")
    assert guest.power_off() == 0


def test_quit_ends_the_vm_at_once(guest: Guest) -> None:
    guest.qmp.execute("quit")
    assert guest.qmp.wait_event("SHUTDOWN")["data"]["guest"] is False
    assert guest.wait_exit() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_vm_and_removes_its_socket(plan: Plan, number: signal.Signals) -> None:
    with start(plan) as guest:
        guest.wait_ready()
        assert plan.qmp.exists()
        guest.process.send_signal(number)
        guest.wait_exit()
        assert not plan.qmp.exists()


def processes_watched_by(pid: int) -> list[psutil.Process]:
    """Those that `pid` holds a pidfd of: a backend is nobody's child for long, but the core watches it."""
    found = []
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        lines = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        if int(lines.get("Pid", "-1")) > 0:
            found.append(psutil.Process(int(lines["Pid"])))
    return found


def test_no_process_outlives_a_vm_that_was_killed(guest: Guest) -> None:
    family = processes_watched_by(guest.process.pid)
    assert len(family) >= 2, "a disk's backend is a process of its own, and so is what it was forked from"
    watched = [os.pidfd_open(process.pid) for process in family]
    guest.process.kill()
    deadline = Deadline(10)
    for descriptor in watched:
        ready, _, _ = select.select([descriptor], [], [], deadline.left())
        assert ready, f"still there: {[process for process in family if process.is_running()]}"
        os.close(descriptor)


def test_a_socket_left_by_a_killed_vm_does_not_block_the_next(plan: Plan) -> None:
    with start(plan) as first:
        first.wait_ready()
    assert plan.qmp.exists()
    with start(plan) as second:
        second.wait_ready()
        assert second.qmp.execute("query-status")["running"] is True
        assert second.power_off() == 0
