"""Our blk backend is killed under Debian's QEMU, which keeps the in-flight region and connects to the next process."""

from __future__ import annotations

import contextlib
import re

import pytest

from tests.deadlines import Deadline
from tests.faults.test_chaos import LOAD
from tests.guest.console import Console
from tests.guest.harness import Guest, Plan, copy_of_root, empty_disk
from tests.interop.processes import need, our_backend, serving
from tests.interop.test_our_disk_under_qemu import qemu

MIB = 1 << 20
MOST = 5  # kills in the short form: QEMU asks for the next process once a second


def done(console: Console) -> int:
    """Reads and writes that the guest has back from its second disk."""
    fields = console.check("cat /sys/block/vdb/stat").split()
    return int(fields[0]) + int(fields[4])


def wait_for_more(console: Console) -> None:
    before, deadline = done(console), Deadline(60)
    while done(console) == before:
        assert deadline.left() > 0, "no request comes back any more"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_a_guest_of_qemu_loses_nothing_when_our_backend_is_killed(
    plan: Plan, packed: bool, request: pytest.FixtureRequest
) -> None:
    need("qemu-system-x86_64", "qemu-system-x86")
    kills = int(request.config.getoption("kills"))
    kills = kills if request.config.getoption("long") else min(kills, MOST)
    root, data = copy_of_root(plan.directory), empty_disk(plan.directory / "data", 16 * MIB)
    sockets = [plan.directory / "root.sock", plan.directory / "data.sock"]
    command = qemu(plan, sockets, f",packed={'on' if packed else 'off'},num-queues=1")
    command = [f"{word},reconnect=1" if word.startswith("socket,id=disk1,") else word for word in command]
    with serving(our_backend(sockets[0], root), sockets[0]), contextlib.ExitStack() as served:
        served.enter_context(serving(our_backend(sockets[1], data), sockets[1]))
        with Guest(command, plan) as guest:
            console = guest.wait_ready(90).console
            console.check(LOAD)
            for _ in range(kills):
                wait_for_more(console)
                served.close()  # SIGKILL
                served.enter_context(serving(our_backend(sockets[1], data), sockets[1]))
            wait_for_more(console)
            is_right(console)
            guest.power_off()


def is_right(console: Console) -> None:
    """Every block is what was written to it, nothing is on its way, and the driver complained of nothing."""
    verified = console.check("touch /tmp/stop; wait; cat /tmp/verified", 120)
    assert re.fullmatch(r"(VERIFY ok: [^\n]*\n?)+", verified), verified
    assert console.check("cat /sys/block/vdb/inflight").split() == ["0", "0"]
    assert console.check("dmesg | grep -E 'not a head|I/O error|blocked for' || true") == ""
