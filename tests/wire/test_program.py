"""A backend as a program: the conventions that QEMU and libvirt rely on (vhost-user, "Backend program conventions")."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from backends.runtime.program import ProgramError, listen
from ipc import vhost_user as wire
from tests.wire.raw_frontend import RawFrontend
from vmm_core.vhost.connect import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
SOURCE = """
import sys
from backends.runtime.device import DeviceError
from backends.runtime.program import Program, ProgramError
from tests.wire.memory_device import MemoryDevice

class Memory(Program):
    type = "block"
    features = ("read-only",)

    def add_arguments(self, parser):
        parser.add_argument("--blk-file")

    def open_device(self, options):
        if options.blk_file == "nowhere":
            open("/nowhere/at/all")
        if options.blk_file == "bad":
            raise ProgramError("bad is not a disk image")
        return MemoryDevice()

sys.exit(Memory().run())
"""


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the program with arguments; killed when the test is over."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str, fds: tuple[int, ...] = ()) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", SOURCE, *arguments],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                pass_fds=fds,
            )
        )
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def test_capabilities_are_printed_whatever_else_is_asked(start: Callable[..., subprocess.Popen[str]]) -> None:
    process = start("--print-capabilities", "--no-such-option", "--fd=77")
    out, err = process.communicate(timeout=20)
    assert json.loads(out) == {"type": "block", "features": ["read-only"]}
    assert (process.returncode, err) == (0, "")


@pytest.mark.parametrize("arguments", [(), ("--socket-path=s", "--fd=3"), ("--fd=x",), ("--socket-path=s", "--odd")])
def test_wrong_options_fail_early(start: Callable[..., subprocess.Popen[str]], arguments: tuple[str, ...]) -> None:
    process = start(*arguments)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "usage" in err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--socket-path=/nowhere/s",), "block: cannot listen at /nowhere/s: No such file or directory\n"),
        (("--socket-path=s", "--blk-file=nowhere"), "block: /nowhere/at/all: No such file or directory\n"),
        (("--socket-path=s", "--blk-file=bad"), "block: bad is not a disk image\n"),
        (("--fd=1",), "block: --fd=1 is not a socket\n"),
        (("--fd=99",), "block: Bad file descriptor\n"),
        ((f"--socket-path=/{'x' * 200}",), f"block: cannot listen at /{'x' * 200}: AF_UNIX path too long\n"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(
    start: Callable[..., subprocess.Popen[str]], arguments: tuple[str, ...], line: str
) -> None:
    process = start(*arguments)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (1, line)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("talking", [False, True])
def test_a_signal_ends_it_at_once(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, number: signal.Signals, talking: bool
) -> None:
    path = f"{tmp_path}/s"
    process = start(f"--socket-path={path}")
    fd = connect(path, timeout=20)
    frontend = RawFrontend(path) if talking else None
    if talking:
        os.write(fd, b"\1\0\0")  # leaves the server waiting for the rest of a message
    process.send_signal(number)
    assert process.wait(5) == 0
    assert not os.path.exists(path)
    os.close(fd)
    if frontend:
        frontend.close()


def test_a_connected_descriptor_is_served_until_it_is_closed(start: Callable[..., subprocess.Popen[str]]) -> None:
    ours, theirs = socket.socketpair()
    process = start(f"--fd={theirs.fileno()}", fds=(theirs.fileno(),))
    theirs.close()
    ours.send(b"\1\0\0\0\1\0\0\0\0\0\0\0")
    assert len(ours.recv(100)) == 20
    ours.close()
    assert process.wait(20) == 0


def test_a_listening_descriptor_serves_one_front_end_after_the_other(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    path = f"{tmp_path}/s"
    fd = listen(path)
    process = start(f"--fd={fd}", fds=(fd,))
    os.close(fd)
    for _ in range(3):
        frontend = RawFrontend(path)
        frontend.greet()
        assert frontend.call(wire.GET_QUEUE_NUM) == (4,)
        frontend.close()
    process.terminate()
    assert process.wait(5) == 0


class TestListen:
    def test_a_stale_socket_is_replaced(self, tmp_path: Path) -> None:
        for _ in range(2):  # the second finds the first one's socket, without anybody behind it
            os.close(listen(f"{tmp_path}/s"))

    def test_a_socket_in_use_is_left_alone(self, tmp_path: Path) -> None:
        fd = listen(f"{tmp_path}/s")
        with pytest.raises(ProgramError, match="another program does"):
            listen(f"{tmp_path}/s")
        os.close(fd)

    def test_a_file_is_never_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "s").write_text("precious")
        with pytest.raises(ProgramError, match="a file of that name exists"):
            listen(f"{tmp_path}/s")
        assert (tmp_path / "s").read_text() == "precious"
