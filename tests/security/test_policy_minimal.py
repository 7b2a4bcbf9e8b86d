"""Each policy is minimal: VMs and disks at work under strace use every rule that grants something.

A rule is left out only if it says itself when it is needed: `# rare: ...`.
"""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from ipc.confine.policy import read_policy
from tests.deadlines import SCALE, Deadline
from tests.security import traced
from tools.bench import tiny_kernel
from tools.paths import ROOT, STRATOVIRT

WORKLOAD = [
    "tests/security/test_blk_policy.py",
    "tests/security/test_strict.py",
    "tests/security/test_unprivileged.py",
    "tests/security/test_chroot.py",
    "tests/device/test_blk_standalone.py",
    "tests/device/test_blk_crashes.py",
    "tests/device/test_machine_over_test_accel.py",
    "tests/device/test_qmp_clients.py",
    "tests/device/test_daemon.py",
    "tests/device/test_serial_chardevs.py",
    "tests/device/test_serial_terminal.py",
    "tests/device/test_backend_limits.py",
    "tests/device/test_run_directory.py",
    "tests/guest/test_lifecycle.py",
    "tests/faults/test_disk_commands.py",
    "tests/faults/test_foreign_restart.py",
]
RARE = re.compile(r"^(\w+).*# rare: \S", re.MULTILINE)

pytestmark = pytest.mark.timeout(600 * SCALE)


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Rules by policy."""
    directory = tmp_path_factory.mktemp("trace")
    if subprocess.run(["strace", "-qq", "-o", "/dev/null", "true"]).returncode:
        pytest.skip("strace may not trace here")
    pytest_words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *WORKLOAD]
    log = directory / "log"
    traced.trace([sys.executable, *pytest_words], log)
    found = traced.used(log)
    for name, rules in _used_on_kvm(directory).items():
        found[name] |= rules
    return found


def _used_on_kvm(directory: Path) -> dict[str, set[str]]:
    """A guest of ten instructions on KVM: what the core needs there."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("no /dev/kvm: its rules cannot be seen at work")
    kernel, log = directory / "tiny.elf", directory / "kvm.log"
    kernel.write_bytes(tiny_kernel.kernel())
    words = [str(STRATOVIRT), "-accel", "kvm", "-m", "128", "-kernel", str(kernel), "-serial", "stdio"]
    command = [*traced.STRACE, "-o", str(log), *words]
    vm = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert vm.stdout is not None
    assert select.select([vm.stdout], [], [], Deadline(60).left())[0], "the guest said nothing"
    assert os.read(vm.stdout.fileno(), 1) == tiny_kernel.MARK
    psutil.Process(vm.pid).children()[0].terminate()  # strace would keep that to itself
    vm.communicate(timeout=Deadline(60).seconds)
    return traced.used(log)


def _rare(policy: str) -> set[str]:
    files = read_policy(str(traced.POLICIES[policy])).files
    return {name for file in files for name in RARE.findall(Path(file).read_text())}


@pytest.mark.parametrize("policy", traced.POLICIES)
def test_every_rule_is_used_or_says_when_it_is(used: dict[str, set[str]], policy: str) -> None:
    assert used[policy], "the workload was not seen"
    unused = {rule for rule in traced.all_rules(policy) - used[policy] if rule.split()[0] not in _rare(policy)}
    if policy == "standalone":
        unused &= _own_rules(policy)  # the rest is the disk's, and looked at there
    assert unused == set()


@pytest.mark.parametrize("policy", traced.POLICIES)
def test_what_is_called_rare_is_a_rule(policy: str) -> None:
    assert _rare(policy) <= {rule.split()[0] for rule in traced.all_rules(policy)}


def _own_rules(policy: str) -> set[str]:
    path = traced.POLICIES[policy]
    places = read_policy(str(path)).places
    own = {name for name, place in places.items() if place.startswith(f"{path}:")}
    return {rule for rule in traced.all_rules(policy) if rule.split()[0] in own}


TRACE = """\
10<python> execve("/usr/bin/python3", ["python3", "-m", "vmm_core"], 0x7ff /* 3 vars */) = 0
10<python> write(0x1, 0x7ff, 0x1) = 0x1
10<python> seccomp(0x1, 0x1, 0x7ff) = 0
10<python> fcntl(0x3, 0x3, 0) = 0x2
11<python> read(0x4, 0x7ff, 0x8) = 0x8
10<python> clone(child_stack=0x7, flags=CLONE_VM|CLONE_THREAD, parent_tid=[0]) = 11<python>
12<other> close(0x4) = 0
"""


def test_the_tracer_sees_what_is_used_and_what_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call before the filter and one of another process do not count, one of a thread does, born late or not."""
    policy, log = tmp_path / "policy", tmp_path / "log"
    policy.write_text("read\nwrite\nclose\nfcntl: arg1 == 1 || arg1 == 3\nclone\nptrace: trap\n")
    log.write_text(TRACE)
    monkeypatch.setattr(traced, "POLICIES", {"core": policy})
    assert traced.used(log) == {"core": {"read #1", "fcntl #2", "clone #1"}}
    assert traced.all_rules("core") == {"read #1", "write #1", "close #1", "fcntl #1", "fcntl #2", "clone #1"}
