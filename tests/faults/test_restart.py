"""A backend that dies or hangs is replaced while its guest works: nothing is lost, and the guest notices nothing."""

from __future__ import annotations

import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.deadlines import SCALE, Deadline
from tests.faults.test_backend_death import ROOT_DISK, SCRATCH, process_named
from tests.guest.harness import Disk, Guest, Plan, empty_disk, start
from tests.guest.qmp_client import QmpClient, QmpFailed
from vmm_core.rundir import SOCKET
from vmm_core.supervisor.heartbeat import ANSWER_LIMIT, PERIOD

MIB = 1 << 20
NOTICED_WITHIN = 2 * PERIOD + ANSWER_LIMIT  # seconds: a hung backend
# Writes random data, reads it back past the guest's cache, and compares; says so once a round.
WORK = (
    "round=0; while [ $round -lt {rounds} ]; do "
    "dd if=/dev/urandom of=/tmp/a bs=64k count=16 2>/dev/null; "
    "dd if=/tmp/a of=/dev/vdb bs=64k oflag=direct 2>/dev/null; "
    "dd if=/dev/vdb of=/tmp/b bs=64k count=16 iflag=direct 2>/dev/null; "
    "cmp /tmp/a /tmp/b || echo LOST''DATA; "
    "round=$((round+1)); echo ROUND''-$round; done; echo ALL''ROUNDS\n"
)


@pytest.fixture
def two_disks(disk_plan: Plan) -> Plan:
    image = empty_disk(disk_plan.directory / "scratch.img", 16 * MIB)
    disk_plan.disks.append(Disk(image, drive="direct=off,aio=io_uring"))
    disk_plan.extra += ["-backend", "default,max-restarts=100"]
    return disk_plan


def work(guest: Guest, rounds: int) -> None:
    """Start the workload in the guest's shell."""
    guest.console.send(WORK.format(rounds=rounds))


def wait_for_process(guest: Guest, name: str, *, other_than: int = 0) -> psutil.Process:
    """The process once it is there, a new one."""
    deadline = Deadline(20)
    while deadline.left() > 0:
        try:
            process = process_named(guest, name)
            if process.pid != other_than:
                return process
        except (AssertionError, FileNotFoundError, ProcessLookupError, psutil.NoSuchProcess):
            pass
    raise AssertionError(f"{name} did not come back")


def kill(guest: Guest, disk: str, number: int = signal.SIGKILL) -> None:
    """Signal the backend of `disk`, and wait until the guest has another."""
    victim = wait_for_process(guest, f"blk:{disk}")
    victim.send_signal(number)
    wait_for_process(guest, f"blk:{disk}", other_than=victim.pid)


def wait_for_log(guest: Guest, text: str) -> None:
    """Until the core or one of its processes has said that."""
    deadline = Deadline(20)
    while text not in guest.errors():
        assert deadline.left() > 0, f"nobody said {text!r}"


def state(guest: Guest, disk: str) -> dict[str, object]:
    """What QMP says of a disk's backend."""
    (found,) = [each for each in guest.qmp.execute("x-query-backends") if each["id"] == disk]
    return dict(found)


def finish(guest: Guest) -> None:
    """The workload ends, without a difference; the VM, in good order."""
    guest.console.wait_for("^ALLROUNDS$", 120)
    assert "LOSTDATA" not in guest.console.text
    assert guest.power_off() == 0


@pytest.mark.parametrize("device", ["packed=on", "packed=off", "packed=on,num-queues=4", "packed=off,num-queues=4"])
def test_a_backend_killed_under_load_loses_no_block(two_disks: Plan, device: str) -> None:
    two_disks.disks[1].device = device
    with start(two_disks) as guest:
        guest.wait_ready()
        work(guest, 6)
        for number in range(1, 6):
            guest.console.wait_for(f"^ROUND-{number}$", 60)
            kill(guest, SCRATCH)
            kill(guest, ROOT_DISK)
        finish(guest)


def test_an_idle_backend_killed_is_there_when_the_guest_needs_it(two_disks: Plan) -> None:
    with start(two_disks) as guest:
        guest.wait_ready()
        kill(guest, SCRATCH)  # of which the guest has read a little only
        event = guest.qmp.wait_event("BACKEND_RESTARTED")
        assert event["data"]["id"] == SCRATCH
        assert event["data"]["restarts"] == 1
        assert 0 < event["data"]["blackout"] < 5_000_000
        work(guest, 1)
        finish(guest)


def test_a_backend_killed_while_the_vm_is_paused_is_there_when_it_goes_on(two_disks: Plan) -> None:
    with start(two_disks) as guest:
        guest.wait_ready()
        work(guest, 3)
        guest.console.wait_for("^ROUND-1$", 60)
        guest.qmp.execute("stop")
        kill(guest, SCRATCH)
        kill(guest, ROOT_DISK)
        guest.qmp.execute("cont")
        finish(guest)


def test_a_backend_that_hangs_is_found_out_and_replaced(two_disks: Plan) -> None:
    with start(two_disks) as guest:
        guest.wait_ready()
        work(guest, 3)
        guest.console.wait_for("^ROUND-1$", 60)
        kill(guest, SCRATCH, signal.SIGSTOP)
        died = guest.qmp.wait_event("BACKEND_DIED")
        assert "did not answer" in died["data"]["reason"]
        finish(guest)


def test_a_successor_that_hangs_before_it_serves_is_found_out_as_soon_as_one_that_serves(two_disks: Plan) -> None:
    with start(two_disks) as guest:
        guest.wait_ready()
        work(guest, 3)
        guest.console.wait_for("^ROUND-1$", 60)
        first = wait_for_process(guest, f"blk:{SCRATCH}")
        first.send_signal(signal.SIGKILL)
        second = wait_for_process(guest, f"blk:{SCRATCH}", other_than=first.pid)
        second.send_signal(signal.SIGSTOP)
        _gone, alive = psutil.wait_procs([second], timeout=NOTICED_WITHIN + 2 * SCALE)
        assert alive == []
        finish(guest)


def test_past_its_limit_a_backend_is_given_up_and_can_be_brought_back_by_hand(two_disks: Plan) -> None:
    two_disks.extra[-1:] = [f"{SCRATCH},max-restarts=1"]
    with start(two_disks) as guest:
        guest.wait_ready()
        work(guest, 2)
        kill(guest, SCRATCH)
        wait_for_process(guest, f"blk:{SCRATCH}").send_signal(signal.SIGKILL)
        failed = guest.qmp.wait_event("BACKEND_FAILED")
        assert "more than 1 restarts within 60 s" in failed["data"]["reason"]
        assert state(guest, SCRATCH)["state"] == "failed"
        assert guest.qmp.execute("query-status")["running"] is True
        guest.qmp.execute("x-backend-restart", id=SCRATCH)
        finish(guest)


def test_a_replacement_that_dies_too_is_replaced(two_disks: Plan) -> None:
    with start(two_disks) as guest:
        guest.wait_ready()
        work(guest, 3)
        guest.console.wait_for("^ROUND-1$", 60)
        last = 0
        for _ in range(5):  # each as soon as it exists, so before it serves
            victim = wait_for_process(guest, f"blk:{SCRATCH}", other_than=last)
            victim.send_signal(signal.SIGKILL)
            last = victim.pid
        finish(guest)


def test_a_backend_and_what_it_was_forked_from_may_die_together(two_disks: Plan) -> None:
    with start(two_disks) as guest:
        guest.wait_ready()
        backend = process_named(guest, f"blk:{ROOT_DISK}")
        spawner = next(process for process in backend.parents() if process.name() == "spawner")
        spawner.send_signal(signal.SIGKILL)
        work(guest, 2)
        kill(guest, SCRATCH)
        finish(guest)


def test_the_death_of_the_first_process_of_all_backends_costs_every_disk_a_moment(two_disks: Plan) -> None:
    with start(two_disks) as guest:
        guest.wait_ready()
        work(guest, 4)
        for number in range(1, 4):
            guest.console.wait_for(f"^ROUND-{number}$", 60)
            for disk in (ROOT_DISK, SCRATCH):
                wait_for_process(guest, f"blk:{disk}")
            process_named(guest, "keeper").send_signal(signal.SIGKILL)
            back = [guest.qmp.wait_event("BACKEND_RESTARTED")["data"] for _ in range(2)]
            assert {each["id"] for each in back} == {ROOT_DISK, SCRATCH}
            assert max(each["blackout"] for each in back) < 1_000_000 * SCALE
        finish(guest)


def test_a_core_that_is_killed_leaves_no_process_and_no_socket_in_the_way(two_disks: Plan) -> None:
    with start(two_disks) as guest:
        guest.wait_ready()
        family = psutil.Process(guest.process.pid).children(recursive=True)
        assert {process.name() for process in family} >= {"zygote", "keeper", "spawner", f"blk:{SCRATCH}"}
        guest.process.send_signal(signal.SIGKILL)
        _gone, alive = psutil.wait_procs(family, timeout=1)
        assert [process.name() for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
        assert Path(guest.plan.qmp).exists()
    with start(two_disks) as guest:  # the stale socket does not matter
        guest.wait_ready()
        assert guest.power_off() == 0


def test_a_backend_killed_while_the_vm_ends_does_not_keep_it_from_ending(two_disks: Plan) -> None:
    with start(two_disks) as guest:
        guest.wait_ready()
        victim = process_named(guest, f"blk:{SCRATCH}")
        guest.qmp.execute("quit")
        victim.send_signal(signal.SIGKILL)
        assert guest.wait_exit(20) == 0


def test_a_backend_is_upgraded_under_load_and_the_blackout_is_told(two_disks: Plan) -> None:
    with start(two_disks) as guest:
        guest.wait_ready()
        work(guest, 6)
        for number in range(1, 4):
            guest.console.wait_for(f"^ROUND-{number}$", 60)
            before = state(guest, SCRATCH)["pid"]
            answer = guest.qmp.execute("x-backend-upgrade", id=SCRATCH)
            assert answer["pid"] == state(guest, SCRATCH)["pid"] != before
            assert 0 < answer["blackout"] < 2_000_000
            assert guest.qmp.wait_event("BACKEND_UPGRADED")["data"] == answer
        kill(guest, SCRATCH)  # the new one is watched over like the old one
        finish(guest)


def another_installation(plan: Plan, change: str) -> str:
    """A command for an upgrade: our code with `change` made to the disk's class D."""
    command = plan.directory / "changed"
    program = f"import sys, time\nfrom backends.blk.device import BlkDevice as D\n{change}\n"
    program += "from backends.runtime.rebirth import complete\ncomplete(sys.argv[-1])\n"
    command.write_text(f"#!/bin/sh\nexec {sys.executable} -I -c '{program}' \"$@\"\n")
    command.chmod(0o755)
    return str(command)


SLOW_START = """
start = D.vring_kick
def slowly(*arguments):
    sys.stderr.write("about to start\\n")
    sys.stderr.flush()
    time.sleep(1)  # less than a new version is given
    start(*arguments)
D.vring_kick = slowly
"""
NO_FLUSH = """
offer = D._offer
D._offer = lambda disk: offer(disk) & ~(1 << 9)
"""


def test_a_backend_killed_while_a_new_version_takes_over_is_replaced_by_its_own_kind(two_disks: Plan) -> None:
    """Its rings are stopped, and set up on the new process already, when it dies."""
    command = another_installation(two_disks, SLOW_START)
    with start(two_disks) as guest, ThreadPoolExecutor(1) as pool:
        guest.wait_ready()
        work(guest, 3)
        guest.console.wait_for("^ROUND-1$", 60)
        old = process_named(guest, f"blk:{SCRATCH}")
        answer = pool.submit(guest.qmp.execute, "x-backend-upgrade", id=SCRATCH, command=command, seconds=60)
        wait_for_log(guest, "about to start")
        old.send_signal(signal.SIGKILL)
        with pytest.raises(QmpFailed, match="the old backend was lost meanwhile, too"):
            answer.result()
        guest.qmp.wait_event("BACKEND_RESTARTED")
        finish(guest)


def test_two_who_upgrade_at_once_get_one_upgrade(two_disks: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """A monitor answers one command after the other, but a VM has more than one."""
    monkeypatch.setenv("STRATOCELL_RUN_DIR", str(two_disks.directory / "run"))
    command = another_installation(two_disks, SLOW_START)
    with start(two_disks) as guest, ThreadPoolExecutor(1) as pool:
        guest.wait_ready()
        work(guest, 3)
        answer = pool.submit(guest.qmp.execute, "x-backend-upgrade", id=SCRATCH, command=command, seconds=60)
        other = QmpClient(two_disks.directory / "run" / str(guest.process.pid) / SOCKET)
        wait_for_log(guest, "about to start")
        with pytest.raises(QmpFailed, match="is being upgraded already"):
            other.execute("x-backend-upgrade", id=SCRATCH)
        other.close()
        assert answer.result()["blackout"] > 0
        finish(guest)


def test_a_new_version_without_a_feature_is_refused(two_disks: Plan) -> None:
    command = another_installation(two_disks, NO_FLUSH)
    with start(two_disks) as guest:
        guest.wait_ready()
        with pytest.raises(QmpFailed, match=r"lacks features 0x200 .* the old backend serves on"):
            guest.qmp.execute("x-backend-upgrade", id=SCRATCH, command=command)
        work(guest, 1)
        finish(guest)


def test_a_backend_is_upgraded_to_another_installation_and_so_are_its_successors(two_disks: Plan) -> None:
    python = two_disks.directory / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -X installation=new "$@"\n')
    python.chmod(0o755)
    with start(two_disks) as guest:
        guest.wait_ready()
        work(guest, 3)
        old = wait_for_process(guest, f"blk:{SCRATCH}")
        for command, why in (("python", "absolute"), ("/bin/false", "serves on"), ("/nowhere", "No such file")):
            with pytest.raises(QmpFailed, match=why):
                guest.qmp.execute("x-backend-upgrade", id=SCRATCH, command=command)
        assert wait_for_process(guest, f"blk:{SCRATCH}").pid == old.pid
        guest.qmp.execute("x-backend-upgrade", id=SCRATCH, command=str(python))
        assert "installation=new" in wait_for_process(guest, f"blk:{SCRATCH}", other_than=old.pid).cmdline()
        kill(guest, SCRATCH)
        assert "installation=new" in wait_for_process(guest, f"blk:{SCRATCH}").cmdline()
        finish(guest)
