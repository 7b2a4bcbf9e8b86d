"""Start a helper program that listens on a socket, and end it."""

from __future__ import annotations

import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.deadlines import Deadline
from tools.paths import ROOT


def need(program: str, package: str) -> None:
    """Skip where `program` of Debian's `package` is missing."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is missing (Debian package {package})")


def our_backend(socket_path: Path, image: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "backends.blk", f"--socket-path={socket_path}", f"--blk-file={image}", *options]


def storage_daemon(socket_path: Path, image: Path, queues: int = 1) -> list[str]:
    node = f"driver=file,node-name=disk,filename={image},aio=threads,cache.direct=off"
    export = f"type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path={socket_path},writable=on"
    return ["qemu-storage-daemon", "--blockdev", node, "--export", f"{export},num-queues={queues}"]


@contextmanager
def serving(command: list[str], socket_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` until the block ends; entered once `socket_path` exists."""
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL)
    deadline = Deadline(20)
    try:
        while not _is_listening(socket_path):
            assert process.poll() is None, f"{command[0]} exited with {process.returncode}"
            assert deadline.left() > 0, f"{command[0]} does not listen on {socket_path}"
            select.select([], [], [], 0.02)
        yield process
    finally:
        process.kill()
        process.wait()


def _is_listening(path: Path) -> bool:
    """Look at the kernel's list: connecting would use up a server that serves one client."""
    listening = "00010000"  # __SO_ACCEPTCON
    rows = (line.split() for line in Path("/proc/net/unix").read_text().splitlines())
    return any(len(row) == 8 and row[7] == str(path) and row[3] == listening for row in rows)
