"""The chaos gate: a disk's backend is killed and hung at random moments under verified load, and nobody loses anything.

`make chaos KILLS=500` is the long form: so many for each kind of ring and number of queues.
"""

from __future__ import annotations

import os
import random
import re
import select
import signal
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from ipc import queue_stats
from tests.deadlines import SCALE, Deadline
from tests.faults.test_backend_death import SCRATCH
from tests.faults.test_restart import state
from tests.guest.harness import Disk, Guest, Plan, empty_disk, start

MIB = 1 << 20
HANG_SHARE = 0.06  # of the deaths are hangs, which take a heartbeat to notice
WARM_UP = 5  # deaths before the core's memory is looked at
GROWTH = MIB  # of the core, at most
DEPTH = 8
LOAD = (
    f"(while [ ! -e /tmp/stop ]; do blkverify /dev/vdb 16 3 {DEPTH} direct || break; done >/tmp/verified 2>&1) & "
    "while [ ! -e /tmp/verified ]; do :; done"
)
WORDS = {"split": "packed=off", "packed": "packed=on"}
# Linux makes one flush of several and counts each of them: without flushes its count is exact.
PREPARE = {"split": "echo write through >/sys/block/vdb/queue/write_cache", "packed": "true"}


class Completions:
    """How many requests the disk has done: the counters that its backend keeps in memory of the core's."""

    def __init__(self, core: int, queues: int) -> None:
        name = f"/memfd:stats-{SCRATCH} (deleted)"
        found = next(entry for entry in Path(f"/proc/{core}/fd").iterdir() if os.readlink(entry) == name)
        self._file = found.open("rb", buffering=0)
        self._queues = queues

    def total(self) -> int:
        data = os.pread(self._file.fileno(), queue_stats.size(self._queues), 0)
        return sum(int(str(queue_stats.read(data, queue, 1)["requests"])) for queue in range(self._queues))

    def wait_for_another(self) -> None:
        """Until a request is done that was not when this was called."""
        before, deadline = self.total(), Deadline(60)
        while self.total() == before:
            assert deadline.left() > 0, "no request comes back any more"
            select.select([], [], [], 0.0001)


@dataclass
class Deaths:
    """Kills one backend after the other; `blackouts` are milliseconds from the signal to the next completion."""

    guest: Guest
    completions: Completions
    chosen: random.Random
    blackouts: dict[str, list[float]] = field(default_factory=lambda: {"SIGKILL": [], "SIGSTOP": []})
    _last: int = 0

    def another(self) -> None:
        """At any moment: also before the new one serves."""
        pid = self._new_process()
        time.sleep(self.chosen.choice((0.0, self.chosen.random() * 0.1)))
        hang = self.chosen.random() < HANG_SHARE
        number = signal.SIGSTOP if hang else signal.SIGKILL
        ended = os.pidfd_open(pid)
        began = time.perf_counter()
        signal.pidfd_send_signal(ended, number)
        assert select.select([ended], [], [], 60 * SCALE)[0], f"{pid} hangs and nobody ends it"
        os.close(ended)
        self.completions.wait_for_another()
        self.blackouts[number.name].append((time.perf_counter() - began) * 1000)

    def _new_process(self) -> int:
        deadline = Deadline(30)
        while True:
            pid = int(str(state(self.guest, SCRATCH).get("pid") or 0))
            if pid not in (0, self._last) and psutil.pid_exists(pid):
                self._last = pid
                return pid
            assert deadline.left() > 0, f"no backend after {self._last}"

    def table(self) -> str:
        """One line for each signal."""
        return "\n".join(
            f"{name}: {len(series)} deaths, blackout p50 {statistics.median(series):.1f} ms, "
            f"p99 {sorted(series)[int(len(series) * 0.99)]:.1f} ms, max {max(series):.1f} ms"
            for name, series in self.blackouts.items()
            if series
        )


def core_size(pid: int) -> tuple[int, int]:
    """Descriptors, and bytes of private memory."""
    anonymous = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert anonymous is not None
    return len(os.listdir(f"/proc/{pid}/fd")), int(anonymous[1]) << 10


@pytest.fixture
def chaos_plan(disk_plan: Plan) -> Plan:
    image = empty_disk(disk_plan.directory / "scratch.img", 16 * MIB)
    disk_plan.disks.append(Disk(image, drive="direct=off,aio=io_uring"))
    disk_plan.extra += ["-backend", "default,max-restarts=100000"]
    return disk_plan


@pytest.mark.rig
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("queues", [1, 4])
@pytest.mark.parametrize("ring", ["split", "packed"])
def test_backends_die_at_random_and_every_block_is_right(
    chaos_plan: Plan, ring: str, queues: int, request: pytest.FixtureRequest
) -> None:
    kills = int(request.config.getoption("kills"))
    chaos_plan.disks[1].device = f"{WORDS[ring]},num-queues={queues}"
    chaos_plan.cpus = queues  # Linux uses no more queues than it has CPUs
    with start(chaos_plan) as guest:
        guest.wait_ready()
        guest.console.check(PREPARE[ring])
        guest.console.check(LOAD)
        deaths = Deaths(guest, Completions(guest.process.pid, queues), random.Random(f"{ring}{queues}"))
        before = (0, 0)
        for turn in range(kills):
            deaths.another()
            if turn == WARM_UP:
                before = core_size(guest.process.pid)
        verified = guest.console.check("touch /tmp/stop; wait; cat /tmp/verified", 120)
        after = core_size(guest.process.pid)
        print(f"\n{ring}, {queues} queues: {len(verified.splitlines())} rounds verified\n{deaths.table()}")
        assert re.fullmatch(r"(VERIFY ok: [^\n]*\n?)+", verified), verified
        is_even(guest, deaths.completions, ring, kills)
        if kills > WARM_UP:
            assert after[0] <= before[0]
            assert after[1] - before[1] < GROWTH or translates(guest)
        assert guest.power_off() == 0


def translates(guest: Guest) -> bool:
    """Whether the core has a software CPU, whose memory of translated code grows with what the guest runs."""
    return bool(guest.qmp.execute("x-query-accel")["name"] == "tcg")


def is_even(guest: Guest, completions: Completions, ring: str, kills: int) -> None:
    """Nothing is on its way, the driver saw no completion twice, and as many came back as went out.

    A split ring's used index counts them all. The device's own counters may be off by a batch for each process that
    died between counting and publishing it, and the guest counts each flush of several that it made one of.
    """
    assert guest.console.check("cat /sys/block/vdb/inflight").split() == ["0", "0"]
    assert guest.console.check("dmesg | grep -E 'not a head|I/O error|blocked for' || true") == ""
    fields = [int(word) for word in guest.console.check("cat /sys/block/vdb/stat").split()]
    asked, flushes, counted = fields[0] + fields[4], fields[15], completions.total()
    print(f"requests: {asked} as the guest counts, {counted} as the device counts")
    assert abs(asked - counted) <= DEPTH * kills + flushes
    if ring == "split":
        used = sum(int(queue["last-used"]) for queue in guest.qmp.execute("x-query-backends")[1]["queues"])
        assert (used - asked) % (1 << 16) == 0
