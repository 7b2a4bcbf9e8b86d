"""A backend that dies or hangs costs its device: the VM, its other disks and its monitor go on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.guest.harness import Disk, Guest, Plan, empty_disk, start

ROOT_DISK, SCRATCH = "blk0", "blk1"  # as the harness names them


def process_named(guest: Guest, name: str) -> psutil.Process:
    """The process of this VM's that `ps` shows as `name`, found through the pidfds that the core holds."""
    for info in Path(f"/proc/{guest.process.pid}/fdinfo").iterdir():
        lines = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        pid = int(lines.get("Pid", "-1"))
        if pid > 0 and Path(f"/proc/{pid}/comm").read_text().strip() == name:
            return psutil.Process(pid)
    raise AssertionError(f"the VM has no process {name}")


@pytest.fixture
def two_disks(disk_plan: Plan) -> Plan:
    image = empty_disk(disk_plan.directory / "scratch.img", 16 << 20)
    disk_plan.disks.append(Disk(image, drive="direct=off,aio=io_uring"))
    return disk_plan


def test_a_killed_backend_loses_its_disk_and_nothing_else(two_disks: Plan) -> None:
    with start(two_disks) as guest:
        console = guest.wait_ready().console
        console.check("dd if=/dev/vdb of=/dev/null bs=64k count=4")
        process_named(guest, f"blk:{SCRATCH}").send_signal(signal.SIGKILL)
        assert guest.qmp.execute("query-status")["running"] is True
        assert console.check("echo still > /root/alive; sync; cat /root/alive") == "still"
        assert guest.power_off() == 0
        assert f"{SCRATCH}: its backend was killed by SIGKILL" in guest.errors()


def test_a_backend_that_hangs_does_not_keep_the_vm_from_ending(two_disks: Plan) -> None:
    with start(two_disks) as guest:
        guest.wait_ready()
        hung = process_named(guest, f"blk:{SCRATCH}")
        pidfd = os.pidfd_open(hung.pid)
        hung.send_signal(signal.SIGSTOP)
        guest.qmp.execute("quit")
        assert guest.wait_exit(20) == 0
        assert not hung.is_running() or hung.status() == psutil.STATUS_ZOMBIE
        os.close(pidfd)


def test_the_death_of_what_backends_are_forked_from_disturbs_no_disk(two_disks: Plan) -> None:
    with start(two_disks) as guest:
        console = guest.wait_ready().console
        backend = process_named(guest, f"blk:{ROOT_DISK}")
        spawner = next(process for process in backend.parents() if process.name() == "spawner")
        spawner.send_signal(signal.SIGKILL)
        console.check("dd if=/dev/vdb of=/dev/null bs=64k count=4")
        assert console.check("echo still > /root/alive; sync; cat /root/alive") == "still"
        assert guest.power_off() == 0
