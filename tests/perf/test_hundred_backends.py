"""A hundred disks at once: how long until all serve, what each weighs, and that they cost nothing while idle."""

from __future__ import annotations

import os
from pathlib import Path
from statistics import median
from time import perf_counter, sleep

import psutil
import pytest

from ipc import vhost_user as wire
from tests.security.cell import Cell
from tests.wire.raw_frontend import RawFrontend

COUNT = 100
SECONDS = 20.0  # for all of them, on a machine that has other things to do
EACH = 4 << 20  # bytes of PSS, at most
IDLE = 2.0  # seconds of watching


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root may read the PSS of a sandboxed backend")
def test_a_hundred_backends_start_at_once_weigh_little_and_sleep(tmp_path: Path) -> None:
    images = [image(tmp_path / f"{number}.img") for number in range(COUNT)]
    cell = Cell("blk")
    try:
        began = perf_counter()
        peers = [cell.start(f"disk{number}", {}, {"image": fd}) for number, fd in enumerate(images)]
        cell.until(lambda: all(peer.process.confined and peer.process.pid for peer in peers))
        fronts = [RawFrontend(peer.take_socket()) for peer in peers]
        assert all(front.call(wire.GET_FEATURES) for front in fronts)
        took = perf_counter() - began
        family = [psutil.Process(peer.process.pid) for peer in peers]
        weights = [process.memory_full_info().pss for process in family]
        cpu = sum(nanoseconds(process.pid) for process in family)
        woken = wakeups(family)
        sleep(IDLE)
        woken = wakeups(family) - woken
        print(
            f"{COUNT} backends serve after {took * 1e3:.0f} ms, {cpu / 1e6 / COUNT:.1f} ms of CPU and "
            f"{median(weights) / 1024:.0f} KiB of PSS each; {woken / IDLE / COUNT:.2f} wakeups a second each while idle"
        )
        assert took < SECONDS
        assert max(weights) < EACH
        assert woken == 0
        for front in fronts:
            front.close()
    finally:
        cell.close()
        for fd in images:
            os.close(fd)


def image(path: Path) -> int:
    path.write_bytes(b"")
    os.truncate(path, 1 << 20)
    return os.open(path, os.O_RDWR)


def nanoseconds(pid: int) -> int:
    """CPU time of all its threads."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def wakeups(family: list[psutil.Process]) -> int:
    """Times that their threads went to sleep, since they began."""
    tasks = (task for process in family for task in Path(f"/proc/{process.pid}/task").iterdir())
    lines = (line for task in tasks for line in (task / "status").read_text().splitlines())
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))
