"""What a running disk is told by its operator holds, in this backend and in the next."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.faults.test_backend_death import SCRATCH
from tests.faults.test_restart import kill, two_disks, wait_for_process
from tests.guest.harness import Guest, Plan, start

__all__ = ["two_disks"]

MIB = 1 << 20
SECTORS = "cat /sys/block/vdb/size"
# Reads one block a time past the cache; prints how many hundredths of a second that took.
TIMED = (
    "read a _ </proc/uptime; dd if=/dev/vdb of=/dev/null bs=4k count={count} iflag=direct 2>/dev/null; "
    "read b _ </proc/uptime; echo $(( (${{b%.*}} - ${{a%.*}}) * 100 + 1${{b#*.}} - 1${{a#*.}} ))"
)


def seconds(guest: Guest, reads: int) -> float:
    """How long the guest takes for so many reads."""
    return int(guest.console.check(TIMED.format(count=reads), 60)) / 100


def throttle(guest: Guest, iops: int) -> None:
    arguments: dict[str, Any] = {"id": SCRATCH, "iops-total": iops}
    answer = guest.qmp.execute("x-backend-set-throttle", **arguments)
    assert answer == {"id": SCRATCH, "iops-total": iops}
    (stats,) = guest.qmp.execute("x-query-backend-stats", id=SCRATCH)["backends"]
    assert stats["iops-total"] == iops


def test_a_throttle_set_at_run_time_holds_also_for_the_next_backend(two_disks: Plan) -> None:
    with start(two_disks) as guest:
        guest.wait_ready()
        throttle(guest, 50)
        assert seconds(guest, 100) >= 1.8
        kill(guest, SCRATCH)
        guest.qmp.wait_event("BACKEND_RESTARTED")
        assert seconds(guest, 100) >= 1.8
        throttle(guest, 0)
        assert seconds(guest, 100) < 1.0
        assert guest.power_off() == 0


def test_a_backend_killed_before_it_answered_costs_neither_the_command_nor_the_answer(two_disks: Plan) -> None:
    with start(two_disks) as guest:
        guest.wait_ready()
        victim = wait_for_process(guest, f"blk:{SCRATCH}")
        victim.send_signal(signal.SIGSTOP)  # so it cannot answer
        killer = threading.Timer(0.3, victim.kill)
        killer.start()
        throttle(guest, 50)
        killer.join()
        guest.qmp.wait_event("BACKEND_RESTARTED")
        assert seconds(guest, 100) >= 1.8
        assert guest.power_off() == 0


def test_a_disk_grows_while_the_guest_runs_and_stays_so(two_disks: Plan) -> None:
    image = Path(two_disks.disks[1].image)
    with start(two_disks) as guest:
        guest.wait_ready()
        assert guest.console.check(SECTORS) == str(16 * MIB // 512)
        assert guest.qmp.execute("x-backend-resize", id=SCRATCH, size=24 * MIB) == {"id": SCRATCH, "size": 24 * MIB}
        assert image.stat().st_size == 24 * MIB
        guest.console.check(f"until [ $({SECTORS}) = {24 * MIB // 512} ]; do sleep 0.1; done", 20)
        with image.open("r+b") as file:
            file.truncate(32 * MIB)  # by somebody else
        assert guest.qmp.execute("x-backend-resize", id=SCRATCH)["size"] == 32 * MIB
        guest.console.check(f"until [ $({SECTORS}) = {32 * MIB // 512} ]; do sleep 0.1; done", 20)
        guest.console.check("echo here | dd of=/dev/vdb bs=512 seek=65000 conv=sync oflag=direct 2>/dev/null")
        kill(guest, SCRATCH)
        assert guest.console.check("dd if=/dev/vdb bs=512 skip=65000 count=1 2>/dev/null | head -c 4") == "here"
        assert guest.power_off() == 0


REFUSALS = {
    "x-backend-resize": [
        ({"size": 8 * MIB}, "at least 16777216"),
        ({"size": 16 * MIB + 1}, "multiple of 512"),
        ({"size": 1 << 61}, "File too large"),
        ({"size": -1}, "size"),
    ],
    "x-backend-set-throttle": [(bad, "iops-total") for bad in ({"iops-total": 1_000_001}, {"iops-total": -1}, {})],
}


def test_what_cannot_be_done_is_refused_and_changes_nothing(two_disks: Plan) -> None:
    with start(two_disks) as guest:
        guest.wait_ready()
        for command, cases in REFUSALS.items():
            for arguments, why in cases:
                with pytest.raises(Exception, match=why):
                    guest.qmp.execute(command, id=SCRATCH, **arguments)
            with pytest.raises(Exception, match="no device 'nobody'"):
                guest.qmp.execute(command, id="nobody", **({"iops-total": 1} if "throttle" in command else {}))
        assert guest.console.check(SECTORS) == str(16 * MIB // 512)
        assert Path(two_disks.disks[1].image).stat().st_size == 16 * MIB
        assert guest.power_off() == 0
