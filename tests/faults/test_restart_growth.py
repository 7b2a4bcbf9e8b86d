"""Hundreds of deaths leave nothing behind: no descriptor, no memory, no thread, no zombie, no cgroup, no file."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import psutil

from tests.deadlines import Deadline
from tests.processes import RawQmp, TestMachine

KILLS, WARM_UP = 400, 100
KIB = 1024
GROWTH = 256 * KIB  # of any process of the VM; Python settles at about 200 more, a leak of one object a death shows
DISK = "data"


class Counted:
    """What the core, zygote, keeper and spawner hold; the backend is another one each time."""

    def __init__(self, core: int) -> None:
        family = [psutil.Process(core), *psutil.Process(core).children(recursive=True)]
        lasting = {process.pid: process for process in family if not process.name().startswith("blk:")}
        self.processes = len(family)
        self.descriptors = {pid: process.num_fds() for pid, process in lasting.items()}
        self.threads = {pid: process.num_threads() for pid, process in lasting.items()}
        self.private = {pid: private_memory(pid) for pid in lasting}
        self.zombies = [process.pid for process in family if process.status() == psutil.STATUS_ZOMBIE]


def private_memory(pid: int) -> int:
    found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * KIB


def backend(qmp: RawQmp) -> dict[str, object]:
    answer = qmp.ask("x-query-backends")
    while "return" not in answer:
        answer = qmp.message()  # that was an event
    (found,) = answer["return"]
    return dict(found)


def wait_for_process(qmp: RawQmp, last: int) -> dict[str, object]:
    deadline = Deadline(20)
    while True:
        found = backend(qmp)
        if found["state"] == "running" and found["pid"] not in (None, 0, last):
            return found
        assert deadline.left() > 0, f"no backend after {last}: {found}"


def files_below(directory: Path) -> set[str]:
    return {str(path) for path in directory.rglob("*")}


def test_hundreds_of_deaths_leave_nothing_behind(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"")
    os.truncate(image, 1 << 20)
    drive = ("-drive", f"file={image},id=d0,direct=off", "-device", f"virtio-blk-device,drive=d0,id={DISK}")
    policy = ("-backend", f"default,max-restarts={2 * KILLS}")
    machine = TestMachine(tmp_path, *drive, *policy, stderr=subprocess.DEVNULL)
    try:
        qmp = machine.qmp()
        qmp.value("qmp_capabilities")
        last, before, files = 0, None, set[str]()
        for turn in range(KILLS):
            last = int(str(wait_for_process(qmp, last)["pid"]))
            if turn == WARM_UP:
                before, files = Counted(machine.process.pid), files_below(tmp_path)
            os.kill(last, signal.SIGKILL)
        restarts = wait_for_process(qmp, last)["restarts"]
        after = Counted(machine.process.pid)
        assert before is not None
        assert restarts == KILLS
        assert after.zombies == []
        assert after.processes == before.processes
        assert after.descriptors == before.descriptors
        assert after.threads == before.threads
        assert files_below(tmp_path) == files
        for pid, private in after.private.items():
            assert private - before.private[pid] < GROWTH, f"{psutil.Process(pid).name()} grew"
    finally:
        machine.close()
