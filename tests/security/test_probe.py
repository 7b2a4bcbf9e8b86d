"""What code can do that has taken over a backend: each thing that it would like to is tried inside the real sandbox.

First with the filter, where most attempts end the process; then with `-disable-seccomp`, where namespaces, the empty
root, lost capabilities, Landlock and limits have to do alone.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.security.cell import Cell, Peer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROBE = "tests.security.probe_backend"
KILLED = -signal.SIGSYS
PARENT = str(os.getpid())


class Attempt(NamedTuple):
    """A system call (x86_64 numbers), and how it must fail without the filter (empty: the filter alone forbids it)."""

    name: str
    words: tuple[str, ...]
    unfiltered: tuple[int, ...]
    filtered: int = KILLED  # or an errno


NOWHERE = (errno.ENOENT, errno.EACCES)
ATTEMPTS = (
    Attempt("open a file", ("2", "s:/etc/passwd", "0"), NOWHERE, errno.ENOENT),
    Attempt("open a device", ("257", "-100", "s:/dev/mem", "2", "0"), NOWHERE, errno.ENOENT),
    Attempt("create a file", ("257", "-100", "s:/x", "0o102", "0o600"), (errno.EROFS, errno.EACCES), errno.ENOENT),
    Attempt("look at other processes", ("257", "-100", f"s:/proc/{PARENT}/mem", "2", "0"), NOWHERE, errno.ENOENT),
    Attempt("list the root's parent", ("257", "-100", "s:/../../etc", "0", "0"), NOWHERE, errno.ENOENT),
    Attempt("openat2", ("437", "-100", "s:/etc/passwd", "0", "24"), ()),
    Attempt("open by handle", ("304", "-100", "0", "0"), ()),
    Attempt("make a directory", ("83", "s:/d", "0o700"), (errno.EROFS, errno.EACCES)),
    Attempt("remove a file", ("87", "s:/etc/passwd"), NOWHERE),
    Attempt("make a socket", ("41", "2", "1", "0"), ()),
    Attempt("make a socket pair", ("53", "1", "1", "0", "0"), ()),
    Attempt("connect its socket elsewhere", ("42", "4", "0", "16"), (errno.EFAULT,)),
    Attempt("send out of band", ("46", "4", "0", "0x4001"), ()),
    Attempt("receive out of band", ("47", "4", "0", "0x41"), ()),
    Attempt("run a program", ("59", "s:/bin/sh", "0", "0"), NOWHERE),
    Attempt("run a program by descriptor", ("322", "4", "s:", "0", "0", "0x1000"), (errno.EACCES,)),
    Attempt("fork", ("57",), ()),
    Attempt("vfork by clone", ("56", "0x4111", "0", "0", "0", "0"), ()),
    Attempt("make a user namespace", ("272", "0x10000000"), ()),
    Attempt("make a mount namespace", ("272", "0x20000"), (errno.EPERM,)),
    Attempt("mount", ("165", "s:none", "s:/", "s:proc", "0", "0"), (errno.EPERM,)),
    Attempt("unmount", ("166", "s:/", "2"), (errno.EPERM, errno.EINVAL)),
    Attempt("change the root", ("161", "s:/"), (errno.EPERM,)),
    Attempt("pivot the root", ("155", "s:.", "s:."), (errno.EPERM,)),
    Attempt("enter a namespace", ("308", "4", "0"), (errno.EINVAL, errno.EPERM)),
    Attempt("trace a process", ("101", "16", PARENT, "0", "0"), (errno.ESRCH, errno.EPERM)),
    Attempt("read another's memory", ("310", PARENT, "0", "0", "0", "0", "0"), ()),
    Attempt("kill the core", ("62", PARENT, "9"), (errno.ESRCH, errno.EPERM)),
    Attempt("kill the keeper", ("62", "1", "9"), (errno.EPERM,)),
    Attempt("kill everybody", ("62", "-1", "9"), ()),
    Attempt("open the core's pidfd", ("434", PARENT, "0"), (errno.ESRCH,)),
    Attempt("take another's descriptor", ("438", "4", "0", "0"), (errno.EBADF,)),
    Attempt("become root", ("105", "0"), (errno.EPERM, errno.EINVAL)),  # a user namespace has no root
    Attempt("make an io_uring", ("425", "8", "0"), (errno.EFAULT,)),
    Attempt("load a program into the kernel", ("321", "0", "0", "0"), ()),
    Attempt("count its own performance", ("298", "0", "0", "-1", "-1", "0"), (errno.EFAULT, errno.EACCES, errno.EPERM)),
    Attempt("use keys", ("250", "0", "0", "0", "0", "0"), ()),
    Attempt("set the clock", ("227", "0", "0"), (errno.EPERM, errno.EFAULT)),
    Attempt("raise its limits", ("302", "0", "7", "0", "0"), ()),
    Attempt("name itself dumpable", ("157", "4", "1", "0", "0", "0"), ()),
    Attempt("set up a tracer of page faults", ("323", "0"), ()),
    Attempt("let go of its lifeline", ("72", "6", "4", "0"), ()),
    Attempt("make a file in memory", ("319", "s:x", "0"), ()),
    Attempt("map shared memory of its own", ("9", "0", "4096", "3", "0x21", "-1", "0"), ()),
    Attempt("map shared memory in the newer way", ("9", "0", "4096", "3", "0x23", "-1", "0"), ()),
    Attempt("map memory that grows like a stack", ("9", "0", "4096", "3", "0x122", "-1", "0"), ()),
    Attempt("map executable memory", ("9", "0", "4096", "7", "0x22", "-1", "0"), ()),
    Attempt("type into a terminal", ("16", "0", "0x5412", "0"), (errno.ENOTTY, errno.EPERM)),
    Attempt("catch its own end", ("13", "31", "0", "0", "8"), ()),
    Attempt("signal a thread elsewhere", ("234", "1", "1", "9"), (errno.EPERM,)),
    Attempt("start a thread", ("56", "0x10000", "0", "0", "0", "0"), ()),
    Attempt("wake a 32-bit interface", ("0x40000014", "1", "0", "0"), ()),
)


@pytest.fixture(scope="module")
def probes() -> Iterator[Cell]:
    made = Cell(PROBE)
    yield made
    made.close()


@pytest.fixture(scope="module")
def unfiltered() -> Iterator[Peer]:
    made = Cell(PROBE, seccomp=False)
    yield made.ready("probe")
    made.close()


def attempt_on(peer: Peer, verb: str, words: tuple[str, ...]) -> int:
    """What became of it: an errno, 0 for success, or the status of the process that died of it."""
    peer.say("\t".join((verb, *words)))
    answer = peer.hear()
    if not answer:
        return peer.ended().exit_status or 0
    result, number = answer.split()
    return int(number) if result == "-1" else 0


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.name)
def test_a_taken_over_backend_cannot(probes: Cell, attempt: Attempt) -> None:
    peer = probes.ready("probe")
    assert attempt_on(peer, "call", attempt.words) == attempt.filtered
    peer.hang_up()


@pytest.mark.parametrize("attempt", [each for each in ATTEMPTS if each.unfiltered], ids=lambda attempt: attempt.name)
def test_without_the_filter_it_still_cannot(unfiltered: Peer, attempt: Attempt) -> None:
    assert attempt_on(unfiltered, "call", attempt.words) in attempt.unfiltered


def landlock_abi() -> int:
    return int(ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1))


@pytest.mark.skipif(landlock_abi() < 6, reason="needs Landlock ABI 6 (Linux 6.12): signals stay inside a sandbox")
def test_one_backend_cannot_signal_another_without_the_filter() -> None:
    cell = Cell(PROBE, seccomp=False)
    victim, intruder = cell.ready("victim"), cell.ready("intruder")
    target = str(victim.process.namespace_pid)
    assert attempt_on(intruder, "call", ("62", target, "9")) == errno.EPERM
    intruder.ask("call\t62\t-1\t9")
    assert attempt_on(intruder, "call", ("101", "16", target, "0", "0")) == errno.EPERM
    assert victim.ask("call\t39").startswith(target)
    cell.close()


def test_threads_older_than_the_filter_are_under_it(probes: Cell) -> None:
    peer = probes.ready("probe")
    assert attempt_on(peer, "thread", ("41", "2", "1", "0")) == KILLED


def test_a_forbidden_call_is_told_in_the_log_before_the_end(probes: Cell) -> None:
    peer = probes.ready("probe")
    assert attempt_on(peer, "call", ("41", "2", "1", "0")) == KILLED
    assert peer.process.last_lines[-1].split() == ["seccomp:", "forbidden", "system", "call,", "number", "41"]
    assert peer.process.end_reason == "was killed by SIGSYS"


def test_a_damaged_c_library_still_ends_by_abort(probes: Cell) -> None:
    peer = probes.ready("probe")
    peer.say(f"call\t234\t{peer.process.namespace_pid}\t{peer.process.namespace_pid}\t{signal.SIGABRT}")
    assert peer.ended().end_reason == "was killed by SIGABRT"


def test_a_flood_of_descriptors_ends_at_the_limit(probes: Cell) -> None:
    assert attempt_on(probes.ready("probe"), "call", ("32", "0")) == KILLED  # dup is not even allowed
    count, number = map(int, probes.ready("probe").ask("flood").split())
    assert number == errno.EMFILE
    assert count < 512


def test_without_the_filter_a_flood_of_descriptors_ends_at_the_limit(unfiltered: Peer) -> None:
    count, number = map(int, unfiltered.ask("flood").split())
    assert number == errno.EMFILE
    assert count < 512
    for descriptor in range(512 - count, 512):
        unfiltered.ask(f"call\t3\t{descriptor}")


@pytest.mark.parametrize("seccomp", [True, False])
def test_memory_cannot_grow_without_bound(seccomp: bool) -> None:
    cell = Cell(PROBE, seccomp=seccomp)
    size, number = map(int, cell.ready("probe").ask("grow").split())
    cell.close()
    assert number == errno.ENOMEM
    assert size <= 256 << 20


def test_a_page_cannot_become_code(probes: Cell) -> None:
    assert attempt_on(probes.ready("probe"), "execute", ()) == KILLED


def test_nothing_is_reachable_by_network_without_the_filter(unfiltered: Peer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = int(unfiltered.ask(f"connect\t{server.getsockname()[1]}").split()[0])
    assert number in (errno.ENETUNREACH, errno.EACCES)


def test_no_monitor_and_no_other_backends_socket_is_reachable_without_the_filter(
    unfiltered: Peer, tmp_path: Path
) -> None:
    """A monitor listens at a path; who knew of an abstract one could do no more."""
    for address, name in ((str(tmp_path / "qmp"), str(tmp_path / "qmp")), (f"\0{PARENT}-qmp", f"@{PARENT}-qmp")):
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.bind(address)
            monitor.listen()
            number = int(unfiltered.ask(f"reach\t{name}").split()[0])
        assert number in (*NOWHERE, errno.ECONNREFUSED, errno.EPERM)


def test_a_monitor_is_out_of_reach(probes: Cell, tmp_path: Path) -> None:
    assert attempt_on(probes.ready("probe"), "reach", (str(tmp_path / "qmp"),)) == KILLED


def status_of(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
        return dict(line.rstrip("\n").split(":\t", 1) for line in status if ":\t" in line)


def test_the_kernel_confirms_what_was_given_up(cell: Cell) -> None:
    peer = cell.ready()
    status = status_of(peer.process.pid)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert "0" not in status["Uid"].split()
    assert status["Groups"].strip() == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: others cannot change users")
def test_no_two_backends_are_the_same_user(cell: Cell) -> None:
    users = {status_of(cell.ready(f"echo{index}").process.pid)["Uid"] for index in range(3)}
    assert len(users) == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root may look at an undumpable process's namespaces")
def test_the_kernel_confirms_the_namespaces_and_the_empty_root(cell: Cell) -> None:
    peer = cell.ready()
    for kind in ("mnt", "net", "ipc", "uts", "pid", "cgroup"):
        assert os.readlink(f"/proc/{peer.process.pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}"), kind
    assert os.listdir(f"/proc/{peer.process.pid}/root") == []
    with open(f"/proc/{peer.process.pid}/mountinfo", encoding="utf-8") as mounts:
        entries = mounts.read().splitlines()
    assert len(entries) == 1
    assert " ro," in entries[0]
