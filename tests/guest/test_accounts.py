"""A disk's account says what its guest did, and the programs that show it agree; limits hold under load."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.guest.harness import Disk, Guest, Plan, empty_disk, start
from tools.paths import ROOT

MIB = 1 << 20


@pytest.fixture
def watched(disk_plan: Plan, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """A second disk, and a run directory of the test's own."""
    monkeypatch.setenv("STRATOCELL_RUN_DIR", str(disk_plan.directory / "run"))
    image = empty_disk(disk_plan.directory / "data", 32 * MIB)
    disk_plan.disks.append(Disk(image, "direct=off,aio=io_uring"))
    disk_plan.extra += ["-name", "guest"]
    return disk_plan


def program(module: str, *words: str) -> str:
    command = [sys.executable, "-m", f"vmm_core.metrics.{module}", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=30, check=True)
    return done.stdout


def queue(guest: Guest, disk: str) -> dict[str, int]:
    """The first queue's counters of a disk."""
    (entry,) = guest.qmp.execute("x-query-backend-stats", id=disk)["backends"]
    counters: dict[str, int] = entry["queues"][0]
    return counters


def test_counters_are_what_the_guest_did(watched: Plan) -> None:
    with start(watched) as guest:
        console = guest.wait_ready().console
        before = queue(guest, "blk1")
        console.check("dd if=/dev/zero of=/dev/vdb bs=4k count=256 oflag=direct 2>/dev/null")
        console.check("dd if=/dev/vdb of=/dev/null bs=64k count=16 iflag=direct 2>/dev/null")
        after = queue(guest, "blk1")
        assert after["written-bytes"] - before["written-bytes"] == MIB
        assert after["read-bytes"] - before["read-bytes"] >= MIB
        done = after["requests"] - before["requests"]
        assert done >= 256 + 16
        assert (after["errors"], after["in-flight"]) == (0, 0)
        assert 0 < after["kicks"] <= after["requests"] + 1  # a ring is kicked once when it starts
        assert after["calls"] + after["calls-suppressed"] > 0
        (entry,) = guest.qmp.execute("x-query-backend-stats", id="blk1")["backends"]
        assert sum(entry["queues"][0]["latency"]) <= after["requests"]
        assert guest.power_off() == 0


def test_exporter_and_top_show_the_running_guest(watched: Plan) -> None:
    with start(watched) as guest:
        guest.wait_ready().console.check("dd if=/dev/vdb of=/dev/null bs=64k count=64 iflag=direct 2>/dev/null")
        found = {
            (sample.name, sample.labels.get("backend"), sample.labels.get("vm")): sample.value
            for family in text_string_to_metric_families(program("exporter", "--once"))  # type: ignore[no-untyped-call]
            for sample in family.samples
        }
        assert found["stratovirt_queue_read_bytes_total", "blk1", "guest"] >= 4 * MIB
        assert found["stratovirt_guest_memory_bytes", None, "guest"] > 16 * MIB
        rows = {row["process"]: row for row in json.loads(program("top", "--once", "--json"))}
        assert set(rows) == {"core", "blk0", "blk1"}
        assert rows["blk1"]["state"] == "running"
        # Guest memory is the core's: what a backend has is far below it.
        assert rows["blk1"]["memory"] < 16 * MIB < rows["core"]["guest-memory"]
        assert guest.power_off() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: control groups, and PSS of a sandboxed process")
def test_guest_memory_that_a_backend_fills_is_not_held_against_it(watched: Plan) -> None:
    """The kernel charges the pages to the backend's group: 32 MiB of them, with a limit of 24."""
    watched.extra += ["-backend", "blk1,memory-max=24M"]
    with start(watched) as guest:
        console = guest.wait_ready().console
        console.check("dd if=/dev/vdb of=/dev/null bs=1M count=32 2>/dev/null; sleep 2")
        (entry,) = guest.qmp.execute("x-query-backend-stats", id="blk1")["backends"]
        assert (entry["memory-kills"], entry["restarts"]) == (0, 0)
        assert entry["limits"][0]["in-force"] is True
        assert guest.power_off() == 0
