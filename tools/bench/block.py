"""Block: one vhost-user load generator against our blk and qemu-storage-daemon, on the same file (design, 5)."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tools.bench.sockets import wait_until_listening
from tools.bench.table import Row, median
from tools.paths import ROOT

IMAGE, FILE_BYTES = "image", 256 << 20
F_OFD_SETLKW = 38
RUNS, SECONDS = 3, 1.0
GENERATOR = Path(__file__).with_name("vhost_load.c")
PEER_ENGINES = ("io_uring", "threads")  # the better one counts


@dataclass(frozen=True)
class Load:
    """One way to load a disk; `aim` is the least ratio of our rate to the peer's."""

    what: str
    words: tuple[str, ...]
    aim: float


LOADS = (
    Load("4 KiB random read, depth 1", ("4096", "1", str(SECONDS), "random", "read"), 1.0),
    Load("4 KiB random read, depth 32", ("4096", "32", str(SECONDS), "random", "read"), 1.5),
    # Into the page cache the kernel's own write path takes most of the time: no slower is what there is to win.
    Load("4 KiB random write, depth 32", ("4096", "32", str(SECONDS), "random", "write"), 1.0),
    Load("1 MiB sequential read, depth 8", ("1048576", "8", str(SECONDS), "sequential", "read"), 1.0),
)


@dataclass(frozen=True)
class Result:
    """Operations per second, and the server's CPU time for each in microseconds."""

    rate: float
    cpu_us: float


def rows(directory: Path) -> Iterator[Row]:
    """Rates and CPU per operation, page cache warm, each server alone and in turn."""
    image, generator = directory / IMAGE, build_generator(directory)
    with image.open("wb") as file:
        for _ in range(FILE_BYTES >> 20):
            file.write(b"\xa5" * (1 << 20))
    servers = {"ours": our_server(directory, image), "null": our_server(directory, image, "null")}
    servers |= {engine: storage_daemon(directory, image, engine) for engine in PEER_ENGINES}
    for load in LOADS:
        results = measure(servers, directory, generator, load)
        peer_engine = max(PEER_ENGINES, key=lambda engine: results[engine].rate)
        ours, peer = results["ours"], results[peer_engine]
        generating = f"vhost_load SOCKET {' '.join(load.words)}"
        command = f"{generating}  on  {' '.join(servers['ours'])}  against  {' '.join(servers[peer_engine])}"
        yield Row(f"block, {load.what}", "op/s", ours.rate, peer.rate, load.aim, False, command)
        yield Row("  CPU per operation", "us", ours.cpu_us, peer.cpu_us, 1.0, True, command)
        ceiling = f"{generating}  on  {' '.join(servers['null'])}"
        yield Row("  share of the ring-only ceiling", "op/s", ours.rate, results["null"].rate, None, False, ceiling)


def measure(servers: dict[str, list[str]], directory: Path, generator: Path, load: Load) -> dict[str, Result]:
    """Median of RUNS for each server; the servers take turns, so that a slow moment of the machine hits all."""
    results: dict[str, list[Result]] = {name: [] for name in servers}
    for _ in range(RUNS):
        for name, command in servers.items():
            results[name].append(run_once(command, directory / "disk.sock", generator, load))
    return {
        name: Result(median([result.rate for result in series]), median([result.cpu_us for result in series]))
        for name, series in results.items()
    }


def run_once(command: list[str], socket: Path, generator: Path, load: Load) -> Result:
    """Load one server for a second."""
    with serving(command, socket) as pid:
        before = cpu_seconds(pid)
        loaded = subprocess.run([generator, socket, *load.words], capture_output=True, text=True, timeout=60)
        used = cpu_seconds(pid) - before
    if loaded.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {loaded.stderr.strip()}")
    operations, seconds = (float(word) for word in loaded.stdout.split()[:2])
    return Result(operations / seconds, used / max(operations, 1) * 1e6)


@contextmanager
def serving(command: list[str], socket: Path) -> Iterator[int]:
    """Run a server until the block ends; entered when it listens, with its process id."""
    socket.unlink(missing_ok=True)
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL)
    try:
        wait_until_listening(socket, process)
        yield process.pid
    finally:
        process.kill()
        process.wait()
        wait_until_unlocked(socket.with_name(IMAGE))


def wait_until_unlocked(image: Path) -> None:
    """A dead process's io_uring lets go of its files a moment later, and so of its lock on the image."""
    with image.open("r+b") as file:
        fcntl.fcntl(file, F_OFD_SETLKW, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, its threads and its children, user and system."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return float(sum(sum(process.cpu_times()[:2]) for process in family))


def our_server(directory: Path, image: Path, engine: str = "io_uring") -> list[str]:
    where = [f"--socket-path={directory / 'disk.sock'}", f"--blk-file={image}"]
    return [sys.executable, "-m", "backends.blk", *where, f"--aio={engine}"]


def storage_daemon(directory: Path, image: Path, engine: str) -> list[str]:
    node = f"driver=file,node-name=disk,filename={image},aio={engine},cache.direct=off"
    export = "type=vhost-user-blk,id=export,node-name=disk,writable=on,addr.type=unix"
    return ["qemu-storage-daemon", "--blockdev", node, "--export", f"{export},addr.path={directory / 'disk.sock'}"]


def build_generator(directory: Path) -> Path:
    """Compile the load generator."""
    target = directory / "vhost_load"
    flags = ["-std=gnu11", "-O2", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", *flags, "-o", target, GENERATOR], check=True)
    return target
