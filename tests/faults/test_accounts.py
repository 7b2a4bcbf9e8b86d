"""A replaced process goes on where its predecessor stopped: with its limits, and counting on."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.deadlines import Deadline
from tests.guest.harness import Disk, Guest, Plan, empty_disk, start

READ = "dd if=/dev/vdb of=/dev/null bs=64k count=16 iflag=direct 2>/dev/null"
READ_BYTES = 1 << 20
NICE = 3


@pytest.fixture
def limited(disk_plan: Plan) -> Plan:
    image = empty_disk(disk_plan.directory / "data", 4 << 20)
    disk_plan.disks.append(Disk(image, "direct=off,aio=io_uring"))
    disk_plan.extra += ["-backend", f"blk1,nice={NICE},cpu-max=300%"]
    return disk_plan


def account(guest: Guest, *, other_than: int = 0) -> dict[str, Any]:
    """The disk's, once a process serves it, a new one."""
    deadline = Deadline(20)
    while deadline.left() > 0:
        (entry,) = guest.qmp.execute("x-query-backend-stats", id="blk1")["backends"]
        if entry["pid"] not in (0, other_than) and entry["state"] == "running":
            found: dict[str, Any] = entry
            return found
    raise AssertionError("nobody serves the disk")


@pytest.mark.parametrize("way", ["kill", "upgrade"])
def test_limits_and_counters_outlive_the_process(limited: Plan, way: str) -> None:
    with start(limited) as guest:
        console = guest.wait_ready().console
        console.check(READ)
        before = account(guest)
        if way == "kill":
            os.kill(before["pid"], signal.SIGKILL)
        else:
            guest.qmp.execute("x-backend-upgrade", id="blk1")
        console.check(READ)
        after = account(guest, other_than=before["pid"])
        old, new = before["queues"][0], after["queues"][0]
        assert new["read-bytes"] - old["read-bytes"] >= READ_BYTES
        assert new["requests"] >= old["requests"] + 16
        assert new["in-flight"] == 0
        assert os.getpriority(os.PRIO_PROCESS, after["pid"]) == NICE
        assert [each["value"] for each in after["limits"]] == [each["value"] for each in before["limits"]]
        groups = Path(f"/proc/{after['pid']}/cgroup").read_text()
        assert groups.count("backend-blk1") == len(after.get("cgroups", []))
        assert guest.power_off() == 0
