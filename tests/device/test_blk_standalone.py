"""`python -m backends.blk` gives up what it does not need before it hears a front-end; and does without io_uring."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from backends.blk.device import BlkDevice
from ipc import vhost_user as wire
from ipc.fds import close_all
from tests.device.blk_driver import DISCARD, FLUSH, OK, RAM, WRITE_ZEROES, Backend, Disk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ENGINES = ("io_uring", "native", "threads", "off")


def status_of(thread: str) -> dict[str, str]:
    with open(f"/proc/{thread}/status") as file:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in file)}


def threads_of(backend: Backend) -> list[dict[str, str]]:
    pid = backend.process.pid
    return [status_of(f"{pid}/task/{number}") for number in os.listdir(f"/proc/{pid}/task")]


@pytest.mark.parametrize("engine", ENGINES)
def test_every_thread_is_confined(disks: Callable[..., Disk], image: Path, engine: str) -> None:
    disk = disks(image, f"--aio={engine}", "--num-queues=2", queues=2)
    threads = threads_of(disk.backend)
    assert len(threads) >= 2
    for status in threads:
        assert (status["Seccomp"], status["NoNewPrivs"], int(status["CapEff"], 16)) == ("2", "1", 0), status["Name"]
    if os.geteuid() == 0:
        assert os.listdir(f"/proc/{disk.backend.process.pid}/root") == []
        assert threads[0]["Uid"].split()[0] != "0"


def test_the_filter_can_be_lifted_and_nothing_else(disks: Callable[..., Disk], image: Path) -> None:
    disk = disks(image, "--disable-seccomp")
    (first, *_) = threads_of(disk.backend)
    assert (first["Seccomp"], first["NoNewPrivs"]) == ("0", "1")
    assert disk.works()


@pytest.mark.parametrize("engine", ENGINES)
def test_all_that_a_session_does_is_allowed(
    backends: Callable[..., Backend], image: Path, tmp_path: Path, engine: str
) -> None:
    """Twice, at a listening socket: memory replaced, log, inflight region, every request; then an orderly end."""
    backend = backends(
        image, f"--aio={engine}", "--discard", "--direct", "--detect-zeroes=unmap", listen=tmp_path / "disk.sock"
    )
    for _ in range(2):
        backend.connect()
        disk = Disk(backend, dirty_log=True)
        layout, fds = disk.front.call_with_fds(wire.GET_INFLIGHT_FD, 0, 0, 1, 64)
        assert disk.front.acknowledged(wire.SET_INFLIGHT_FD, *layout, fds=fds)
        disk.front.call(wire.SET_LOG_BASE, RAM // 4096 // 8, 0, fds=[disk.ram_fd])
        disk.start()
        assert disk.write(1, b"x" * 1000 * 512, at=disk.room(1 << 20) + 1) == OK
        assert disk.write(0, bytes(4096)) == OK
        assert [disk.range(kind, 8, 8).status for kind in (DISCARD, WRITE_ZEROES)] == [OK, OK]
        assert disk.range(WRITE_ZEROES, 8, 8, 1).status == OK
        assert disk.do(FLUSH).status == OK
        close_all(fds)
        disk.close()
    backend.process.send_signal(signal.SIGTERM)
    assert backend.process.wait(10) == 0, backend.log()


def test_a_session_that_ends_ends_the_program_in_order(disks: Callable[..., Disk], image: Path) -> None:
    disk = disks(image)
    assert disk.works()
    disk.front.close()
    disk.backend.socket.close()
    assert disk.backend.process.wait(10) == 0, disk.backend.log()


def test_the_program_ends_in_order_in_the_middle_of_a_session(disks: Callable[..., Disk], image: Path) -> None:
    disk = disks(image)
    assert disk.works()
    disk.backend.process.send_signal(signal.SIGTERM)
    assert disk.backend.process.wait(10) == 0, disk.backend.log()


@pytest.fixture
def no_io_uring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that refuses rings, as far as the program can tell."""
    source, library = tmp_path / "refuse.c", tmp_path / "refuse.so"
    source.write_text("int io_uring_queue_init_params(void) { return -12; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    monkeypatch.setenv("LD_PRELOAD", str(library))


@pytest.mark.usefixtures("no_io_uring")
def test_without_io_uring_threads_serve_the_disk_and_the_log_says_so(disks: Callable[..., Disk], image: Path) -> None:
    disk = disks(image, "--num-queues=3", queues=3)
    assert [disk.write(queue, b"%d" % queue * 512, queue=queue) for queue in range(3)] == [OK] * 3
    assert disk.read(0, 3 * 512) == b"0" * 512 + b"1" * 512 + b"2" * 512
    lines = disk.backend.log().splitlines()
    assert [line for line in lines if "aio" in line] == [
        "aio=io_uring is not to be had here (Cannot allocate memory): threads do it"
    ]
    assert all(status["Seccomp"] == "2" for status in threads_of(disk.backend))


@pytest.mark.parametrize(("engine", "threads"), [("io_uring", 1), ("threads", 5)])
def test_an_iothread_is_one_thread_that_bears_its_name(image: Path, engine: str, threads: int) -> None:
    """Those that a pool adds are called like the one they work for."""
    options = {"aio": engine, "iothread": "iothread-of-disk-0", "num_queues": 4}
    device = BlkDevice(os.open(image, os.O_RDWR), options)
    device.start()
    names = [status_of(f"self/task/{number}")["Name"] for number in os.listdir("/proc/self/task")]
    device.close()
    assert names.count("iothread-of-dis") == threads
