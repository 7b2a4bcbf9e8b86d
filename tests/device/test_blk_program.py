"""The disk's program: what it refuses to start with, locks of images, and front-ends one after another."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.device.blk_driver import OK, Backend, Disk
from tools.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def refusal(*options: str) -> str:
    """The one line with which the program ends."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        done = subprocess.run(
            [sys.executable, "-m", "backends.blk", f"--fd={theirs.fileno()}", *options],
            cwd=ROOT, pass_fds=[theirs.fileno()], capture_output=True, text=True, timeout=30,
        )  # fmt: skip
    assert done.returncode == 1, done
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--num-queues=0", "num-queues=0: must be 1 to 32"),
        ("--num-queues=33", "num-queues=33: must be 1 to 32"),
        ("--queue-size=1", "queue-size=1: must be 2 to 1024"),
        ("--queue-size=2048", "queue-size=2048: must be 2 to 1024"),
        ("--iops=-1", "iops=-1: must be 0 to"),
        ("--iops=99999999999999999999", "iops=99999999999999999999: must be 0 to"),
        ("--serial=123456789012345678901", "serial: at most 20 bytes"),
    ],
)
def test_options_out_of_range_are_refused_in_one_line(image: Path, option: str, expected: str) -> None:
    assert expected in refusal(f"--blk-file={image}", option)


def test_images_that_cannot_be_served_are_refused_in_one_line(tmp_path: Path) -> None:
    assert "No such file" in refusal(f"--blk-file={tmp_path}/nowhere")
    assert "Is a directory" in refusal(f"--blk-file={tmp_path}")
    assert refusal("--blk-file=/dev/null")


def test_a_second_writer_is_refused(backends: Callable[..., Backend], image: Path) -> None:
    first = Disk(backends(image)).start()
    assert first.works()
    assert "in use by another process" in refusal(f"--blk-file={image}")
    assert "in use by another process" in refusal(f"--blk-file={image}", "--read-only")
    assert first.write(0, b"x" * 512) == OK
    first.close()
    first.backend.kill()
    second = Disk(backends(image)).start()
    assert second.read(0, 512) == b"x" * 512
    second.close()


def test_readers_share_an_image_and_keep_writers_out(disks: Callable[..., Disk], image: Path) -> None:
    for disk in (disks(image, "--read-only"), disks(image, "--read-only")):
        assert disk.works()
    assert "in use by another process" in refusal(f"--blk-file={image}")


@pytest.mark.parametrize("engine", ["io_uring", "native", "threads", "off"])
def test_a_session_may_end_with_requests_under_way(
    backends: Callable[..., Backend], image: Path, tmp_path: Path, engine: str
) -> None:
    """Memory and rings go away under the requests; the next front-end finds a disk that works."""
    path = tmp_path / "disk.sock"
    backend = backends(image, f"--aio={engine}", "--num-queues=2", listen=path)
    for _ in range(5):
        backend.connect()
        disk = Disk(backend, queues=2).start()
        for number in range(20):
            disk.submit(0, number * 8, length=4096, queue=number % 2)
        disk.close()
    backend.connect()
    disk = Disk(backend, queues=2).start()
    assert disk.works(queue=1)
    disk.close()
    assert backend.alive()


def test_an_image_that_names_a_backing_file_is_bytes_like_any_other(disks: Callable[..., Disk], tmp_path: Path) -> None:
    """A guest that writes itself the header of another format gets no more than what it wrote."""
    secret, image = tmp_path / "secret", tmp_path / "disk.img"
    secret.write_bytes(b"secret".ljust(1 << 20, b"!"))
    name = str(secret).encode()
    header = struct.pack(">4sIQIIQ", b"QFI\xfb", 3, 512, len(name), 16, 1 << 20).ljust(512, b"\0") + name
    image.write_bytes(header.ljust(1 << 20, b"\0"))
    disk = disks(image)
    assert disk.read(0, 1024) == header.ljust(1024, b"\0")[:1024]
    assert disk.write(8, b"x" * 512) == OK
    assert secret.read_bytes().startswith(b"secret")
    assert image.stat().st_size == 1 << 20
