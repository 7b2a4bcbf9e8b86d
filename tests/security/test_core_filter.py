"""The core's own filter: a guest that breaks into the core can still not become anything else."""

from __future__ import annotations

import errno
import subprocess
import sys
import sysconfig

import pytest

from tests.security.forked import Outcome, forked
from tools.paths import ROOT
from vmm_core import sandbox


def confined(action: str) -> Outcome:
    return forked(lambda: sandbox.install(True), action)


@pytest.mark.parametrize(
    "action",
    [
        "os.execv('/bin/true', ['true'])",
        "os.setuid(0)",
        "os.chroot('/')",
        "syscall(57)",  # fork
        "syscall(101, 16, 1, 0, 0)",  # ptrace
        "syscall(165, 0, 0, 0, 0, 0)",  # mount
        "syscall(272, 0x10000000)",  # unshare
        "syscall(308, 0, 0)",  # setns
        "syscall(310, 1, 0, 0, 0, 0, 0)",  # process_vm_readv
        "syscall(321, 0, 0, 0)",  # bpf
        "syscall(425, 8, 0)",  # io_uring_setup
        "in_thread(lambda: syscall(59, 0, 0, 0))",
    ],
)
def test_what_only_an_intruder_does_ends_the_core(action: str) -> None:
    outcome = confined(action)
    assert outcome.signal == "SIGSYS"
    assert outcome.said.startswith("seccomp: forbidden system call, number")


@pytest.mark.parametrize(
    "action",
    [
        "os.fork()",
        "os.kill(1, 0)",
        "os.pidfd_open(1)",
        "syscall(41, 17, 3, 0)",  # a packet socket
        "__import__('socket').create_server(('127.0.0.1', 0))",
        "os.unlink('x', dir_fd=0)",
        "syscall(41, 16, 3, 0)",  # netlink
        "syscall(16, 0, 0x5412, 0)",  # TIOCSTI
        "syscall(302, 0, 7, 1, 0)",  # prlimit that sets
        "syscall(157, 4, 1, 0, 0, 0)",  # dumpable
        "syscall(234, 1, 1, 0)",  # tgkill of another process
    ],
)
def test_what_it_has_no_business_with_fails(action: str) -> None:
    assert confined(action).error == errno.EPERM


@pytest.mark.parametrize(
    "action",
    [
        "os.close(os.open('/proc/self/status', os.O_RDONLY))",
        "os.listdir('/')",
        "os.eventfd(0)",
        "os.memfd_create('x')",
        "__import__('socket').socketpair()",
        "__import__('threading').Thread(target=lambda: None).start()",
        "__import__('lz4.block')",
        "os.kill and syscall(234, os.getpid(), __import__('threading').get_native_id(), 0)",
        "__import__('select').epoll().poll(0)",
        "__import__('time').sleep(0.001)",
        "os.urandom(4)",
        "os.sched_getaffinity(0)",
        "__import__('mmap').mmap(-1, 4096)",
    ],
)
def test_what_running_a_vm_takes_still_works(action: str) -> None:
    outcome = confined(action)
    assert outcome.done, outcome


def test_disabled_means_disabled() -> None:
    outcome = forked(lambda: sandbox.install(False), "os.execv('/bin/true', ['true'])")
    assert outcome.signal == ""


FRESH = """
import sys
sys.path[:0] = {paths!r}
from vmm_core import sandbox
sandbox.install(True)
print([name for name in sys.modules if name.startswith("ipc.confine.")])
"""


def test_the_start_path_does_not_pay_for_the_compiler() -> None:
    """The policy is compiled once per installation; a later start loads the program that was kept."""
    paths = [str(ROOT), sysconfig.get_path("platlib")]
    command = [sys.executable, "-I", "-S", "-c", FRESH.format(paths=paths)]
    for _ in range(2):
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
    assert "policy" not in result.stdout
    assert "compiler" not in result.stdout
