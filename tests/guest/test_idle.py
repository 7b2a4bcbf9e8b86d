"""An idle VM costs nothing but its guest's own timers, also when its disk has been used; what each process weighs."""

from __future__ import annotations

import os
from pathlib import Path
from time import sleep

import psutil
import pytest

from tests.deadlines import Deadline
from tests.guest.harness import Plan, start

WATCH = 2.0  # seconds in which nobody may wake
SETTLE = 40.0  # seconds for what the guest's kernel still writes
WEIGHTS = {"zygote": 8, "keeper": 8, "spawner": 8, "blk:blk0": 16}  # MiB of PSS at most, guest memory apart


def switches(core: psutil.Process) -> dict[Path, int]:
    """Times that each thread went to sleep or was interrupted, since it began.

    Of the core its event loop alone: vCPUs and their timers are the guest's. A disk's io_uring threads come and go.
    """
    others = [Path(f"/proc/{process.pid}/task") for process in core.children(recursive=True)]
    loop = Path(f"/proc/{core.pid}/task/{core.pid}")
    found = {}
    for thread in [loop, *(thread for tasks in others for thread in tasks.iterdir())]:
        try:
            lines = [line.split() for line in (thread / "status").read_text().splitlines()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        found[thread] = sum(int(words[1]) for words in lines if words[0].endswith("voluntary_ctxt_switches:"))
    return found


def own_memory(pid: int) -> float:
    """MiB of PSS without shared memory, which is guest memory."""
    lines = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return sum(int(words[1]) for words in lines if words[0] in ("Pss_Anon:", "Pss_File:")) / 1024


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root may read the PSS of a sandboxed process")
@pytest.mark.rig
def test_nobody_wakes_while_the_guest_is_idle(disk_plan: Plan) -> None:
    with start(disk_plan) as guest:
        guest.wait_ready().console.check("dd if=/dev/vda of=/dev/null bs=64k count=64 iflag=direct 2>/dev/null; sync")
        core = psutil.Process(guest.process.pid)
        deadline = Deadline(SETTLE)
        woken = 1
        while woken and deadline.left() > 0:
            before = switches(core)
            sleep(WATCH)
            woken = sum(count - before.get(thread, 0) for thread, count in switches(core).items())
        weights = {process.name(): own_memory(process.pid) for process in [core, *core.children(recursive=True)]}
        print(*(f"{name}: {mib:.1f} MiB" for name, mib in weights.items()), f"{woken / WATCH:g} wakeups a second")
        assert woken == 0
        assert {name: mib for name, mib in weights.items() if mib > WEIGHTS.get(name, 1000)} == {}
        assert {*WEIGHTS} < {*weights}
