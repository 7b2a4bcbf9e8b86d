"""What seccomp cannot see: an io_uring is asked for everything, and does only what a disk needs."""

from __future__ import annotations

import errno
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tools.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    Answers = dict[str, dict[int, int]]  # op, flag, register -> number -> result

SOURCE = ROOT / "tests" / "security" / "ring_probe.c"
# <linux/io_uring.h>: READV, WRITEV, FSYNC, POLL_ADD, POLL_REMOVE, FALLOCATE, READ, WRITE
NEEDED = {1, 2, 3, 6, 7, 17, 22, 23}
FORBIDDEN = {
    "NOP": 0,
    "READ_FIXED": 4,
    "SENDMSG": 9,
    "RECVMSG": 10,
    "ACCEPT": 13,
    "CONNECT": 16,
    "OPENAT": 18,
    "CLOSE": 19,
    "STATX": 21,
    "MADVISE": 25,
    "SEND": 26,
    "RECV": 27,
    "OPENAT2": 28,
    "SPLICE": 30,
    "RENAMEAT": 35,
    "UNLINKAT": 36,
    "MKDIRAT": 37,
    "SYMLINKAT": 38,
    "LINKAT": 39,
    "MSG_RING": 40,
    "SOCKET": 45,
    "URING_CMD": 46,
    "FIXED_FD_INSTALL": 54,
}
FIXED_FILE, ASYNC = 0, 4  # bits of a submission's flags

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """Each thing asked for and its result, from a ring that the disk's own code has opened."""
    program: Path = tmp_path_factory.mktemp("ring") / "probe"
    includes = [f"-I{ROOT / place}" for place in ("backends/blk", "backends/runtime")]
    command = ["gcc", "-std=gnu11", "-D_GNU_SOURCE", "-O1", *includes, "-o", str(program), str(SOURCE), "-luring"]
    subprocess.run(command, check=True)
    result = subprocess.run([str(program)], capture_output=True, text=True, timeout=30)
    if result.returncode:
        pytest.skip(f"no io_uring here: {result.stderr.strip()}")
    found: Answers = {}
    for what, number, outcome in re.findall(r"(\w+) (\d+) (-?\d+)", result.stdout):
        found.setdefault(what, {})[int(number)] = int(outcome)
    return found


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_ring_refuses_what_a_disk_does_not_need(answers: Answers, name: str) -> None:
    assert answers["op"][FORBIDDEN[name]] in (-errno.EACCES, -errno.EINVAL)  # EINVAL: not in this kernel


def test_a_ring_does_the_eight_operations_of_a_disk_and_no_other(answers: Answers) -> None:
    done = {number for number, result in answers["op"].items() if result not in (-errno.EACCES, -errno.EINVAL)}
    assert done == NEEDED  # without a descriptor, they fail in their own way


def test_submissions_cannot_be_linked_drained_or_take_their_buffers_from_elsewhere(answers: Answers) -> None:
    allowed = {bit for bit, result in answers["flag"].items() if result not in (-errno.EACCES, -errno.EINVAL)}
    assert allowed == {FIXED_FILE, ASYNC}


def test_a_ring_cannot_be_changed_any_more(answers: Answers) -> None:
    """No buffers, files, eventfds, personalities, clones of another ring: every IORING_REGISTER_ is refused."""
    assert set(answers["register"].values()) <= {-errno.EACCES, -errno.EINVAL}
    assert answers["register"][0] == answers["register"][2] == answers["register"][9] == -errno.EACCES
