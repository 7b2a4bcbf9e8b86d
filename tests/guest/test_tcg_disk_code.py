"""Programs whose pages the disk's backend fills behind the software CPU's back.

`init_on_alloc=0` matters: Debian's kernel otherwise clears each page before the disk fills it, and that write, made by
the guest, drops stale translations even if the dirty log does nothing.
"""

from __future__ import annotations

import pytest

from tests.guest.harness import Plan, start
from tests.guest.test_evicted_programs import DROP, run_all


@pytest.mark.parametrize("cpus", [1, 2])
def test_memory_filled_by_the_disk_runs_as_what_the_disk_holds(cpus: int, disk_plan: Plan) -> None:
    disk_plan.accelerator, disk_plan.cpus, disk_plan.append = "tcg", cpus, "init_on_alloc=0"
    with start(disk_plan) as guest:
        guest.wait_ready()
        for order in ("seq 1 200", "seq 200 -1 1", "seq 1 3 200; seq 2 3 200; seq 3 3 200"):
            assert run_all(guest.console, order) == ""
            guest.console.check(DROP)
        assert guest.power_off() == 0
