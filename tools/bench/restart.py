"""A disk's backend dies under load: how long the guest waits, here and with QEMU and qemu-storage-daemon.

Both guests run the same verified load and report their slowest operation of each round; one kill falls into a round.
QEMU connects again by itself (`reconnect=1`, its shortest); qemu-storage-daemon is started again at once, as by hand.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from tools.bench.machines import APPEND, LIMIT, MEMORY, QEMU_PROCESSOR, Machines, Started
from tools.bench.sockets import wait_until_listening
from tools.bench.table import Row, median
from tools.paths import GUEST

ROUNDS = 30
PEER_ROUNDS = 10
LONGEST = 50.0  # milliseconds, of 99 in a hundred waits
ROUND = "blkverify /dev/vdb 8 1 1 direct\n"  # MiB, seconds, threads
SLOWEST = rb"VERIFY ok: .*slowest ([0-9.]+) ms"
READY = b"STRATOCELL ready"
DISK = "data"


def rows(directory: Path, accelerator: str) -> Iterator[Row]:
    """Median, 99th percentile and longest of our waits; the peer's median beside ours."""
    command = ours(Machines(directory, accelerator), _disk(directory))
    waits = sorted(_waits(command, kill_ours, ROUNDS))
    quiet = median(sorted(_waits(command, lambda _: None, 5)))
    peer, text = _peer_wait(directory, accelerator)
    what = f"wait of a guest whose disk's process is killed, {accelerator}"
    text = f"kill -9 under `{ROUND.strip()}` in {' '.join(command)}  against  {text}"
    yield Row(f"{what}, p50 of {ROUNDS}", "ms", median(waits), peer, 0.1, True, text)
    yield Row(f"{what}, p99", "ms", waits[int(len(waits) * 0.99)], None, LONGEST, True, text)
    yield Row(f"{what}, longest", "ms", waits[-1], None, None, True, text)
    yield Row("  the slowest operation of a round without a kill", "ms", quiet, None, None, True, text)


def ours(machines: Machines, disk: Path) -> list[str]:
    command, _ = machines.linux("commands")
    drive = f"file={disk},id={DISK},readonly=false,direct=off,aio=io_uring"
    device = f"virtio-blk-device,drive={DISK},id={DISK}"
    return [*command, "-drive", drive, "-device", device, "-backend", f"id={DISK},max-restarts={ROUNDS}"]


def kill_ours(started: Started) -> None:
    """What the supervisor sees when a disk's process crashes."""
    family = psutil.Process(started.process.pid).children(recursive=True)
    next(process for process in family if process.name() == f"blk:{DISK}").kill()


def _waits(command: list[str], kill: Callable[[Started], None], rounds: int) -> list[float]:
    """Milliseconds; TimeoutError when the guest does not come back."""
    started = Started(command)
    try:
        started.wait_for(READY, LIMIT)
        return [_round(started, kill) for _ in range(rounds)]
    finally:
        started.close()


def _round(started: Started, kill: Callable[[Started], None]) -> float:
    started.type(ROUND)
    time.sleep(random.uniform(0.3, 0.9))
    kill(started)
    return float(started.answer(SLOWEST, LIMIT)[1])


def _peer_wait(directory: Path, accelerator: str) -> tuple[float | None, str]:
    """Its median and commands, or None and what happened instead."""
    socket_path = directory / "daemon.sock"
    daemon = daemon_command(socket_path, _disk(directory))
    command = qemu(directory, socket_path, accelerator)
    text = f"{' '.join(command)} with {' '.join(daemon)}"
    with contextlib.ExitStack() as running:
        running.enter_context(_serving(daemon, socket_path))

        def again(_: Started) -> None:
            running.close()
            running.enter_context(_serving(daemon, socket_path))

        try:
            return median(_waits(command, again, PEER_ROUNDS)), text
        except TimeoutError:
            return None, f"(no figure: its guest still waited after {LIMIT:g} s) {text}"


@contextlib.contextmanager
def _serving(command: list[str], socket_path: Path) -> Iterator[None]:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        wait_until_listening(socket_path, process)
        yield
    finally:
        process.kill()
        process.wait()
        socket_path.unlink(missing_ok=True)


def daemon_command(socket_path: Path, disk: Path) -> list[str]:
    node = f"driver=file,node-name=disk,filename={disk},aio=io_uring,cache.direct=off"
    export = f"type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path={socket_path},writable=on"
    return ["qemu-storage-daemon", "--blockdev", node, "--export", export]


def qemu(directory: Path, socket_path: Path, accelerator: str) -> list[str]:
    """Its vhost-user-blk needs PCI, so a q35."""
    root = directory / "peer.ext4"
    if not root.exists():
        shutil.copyfile(GUEST / "root.ext4", root)
    return [
        *("qemu-system-x86_64", "-M", "q35,memory-backend=ram", "-accel", accelerator),
        *("-cpu", QEMU_PROCESSOR[accelerator], "-m", f"{MEMORY}M"),
        *("-object", f"memory-backend-memfd,id=ram,size={MEMORY}M,share=on"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"),
        *("-kernel", str(GUEST / "vmlinuz"), "-initrd", str(GUEST / "initramfs.cpio")),
        *("-append", f"{APPEND} stratocell.console=commands"),
        *("-drive", f"file={root},if=none,id=root,format=raw", "-device", "virtio-blk-pci,drive=root"),
        *("-chardev", f"socket,id=disk,path={socket_path},reconnect=1", "-device", "vhost-user-blk-pci,chardev=disk"),
    ]  # fmt: skip


def _disk(directory: Path) -> Path:
    path = directory / "data.img"
    if not path.exists():
        path.write_bytes(b"")
        os.truncate(path, 16 << 20)
    return path
