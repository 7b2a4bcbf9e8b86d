"""Watching costs next to nothing: ten backends' accounts once a second take less than a hundredth of a CPU."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from tests.processes import TestMachine
from vmm_core.supervisor.process_stats import ROLLUP_SHARE

BACKENDS, DISKS, READINGS = 10, 5, 100  # a microvm takes no ten disks: the cost of five is doubled
AIM = 0.01  # of a CPU, at one reading a second


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root may read the PSS of a sandboxed backend")
def test_ten_backends_once_a_second_cost_less_than_a_hundredth_of_a_cpu(tmp_path: Path) -> None:
    """A walk over a process's pages for its PSS is rationed by time, so its share of a CPU is known beforehand."""
    machine = TestMachine(tmp_path, "-m", "256M", "-mem-prealloc", *disks(tmp_path))
    client = machine.qmp()
    while not all(each["pid"] for each in client.value("x-query-backend-stats")["backends"]):
        pass
    core = psutil.Process(machine.process.pid)
    before = sum(core.cpu_times()[:2])
    for _ in range(READINGS):
        assert len(client.value("x-query-backend-stats")["backends"]) == DISKS
    reading = (sum(core.cpu_times()[:2]) - before) / READINGS * BACKENDS / DISKS
    machine.close()
    share = reading + (BACKENDS + 1) / ROLLUP_SHARE
    print(f"{1000 * reading:.2f} ms of CPU for a reading of {BACKENDS} backends; {100 * share:.2f} % with their PSS")
    assert share < AIM


def disks(directory: Path) -> list[str]:
    """Options for that many disks, each with a backend."""
    words = []
    for index in range(DISKS):
        image = directory / f"{index}.img"
        image.write_bytes(bytes(1 << 20))
        words += ["-drive", f"file={image},id=d{index},direct=off", "-device", f"virtio-blk-device,drive=d{index}"]
    return words
