"""What the core imports before the guest runs: every module here is paid for by every VM, at each start."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tools.paths import ROOT

EXAMPLE = [
    *("-kernel", "vmlinux.bin"),
    *("-append", "console=ttyS0", "root=/dev/vda", "rw", "reboot=k", "panic=1"),
    *("-drive", "file=rootfs.ext4,id=rootfs,readonly=false"),
    *("-device", "virtio-blk-device,drive=rootfs"),
    *("-qmp", "unix:/tmp/stratovirt.socket,server,nowait"),
    *("-serial", "stdio"),
]

# Standard modules that cost next to nothing, unlike typing, re, json, enum, dataclasses, threading and their like.
ALLOWED = {
    *("_cffi_backend", "_socket", "_struct", "array", "atexit", "errno", "fcntl", "gc", "itertools"),
    *("math", "mmap", "posix", "pwd", "resource", "select", "signal", "_signal", "stat", "struct", "sys", "termios"),
    *("time", "tty", "_stat", "os", "posixpath", "genericpath", "os.path", "_collections_abc", "__future__", "zlib"),
    *("_operator", "_weakref", "_random", "binascii"),
}

PROGRAM = """
import sys
before = set(sys.modules)
sys.path += [{root!r}, {packages!r}]
import vmm_core.cli
from vmm_core.config import parse
parse({arguments!r})
import vmm_core.main
print("\\n".join(sorted(set(sys.modules) - before)))
"""


@pytest.fixture
def imported(tmp_path: Path) -> list[str]:
    """Modules loaded by parsing the documented example and by the program that then runs it."""
    for name in ("vmlinux.bin", "rootfs.ext4"):
        (tmp_path / name).write_bytes(bytes(4096))
    program = PROGRAM.format(root=str(ROOT), packages=sysconfig.get_path("platlib"), arguments=EXAMPLE)
    result = subprocess.run([sys.executable, "-I", "-S", "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_the_start_path_imports_nothing_but_what_is_allowed(imported: list[str]) -> None:
    foreign = [name for name in imported if name.split(".")[0] not in ("vmm_core", "ipc", "_cffi_backend")]
    assert [name for name in foreign if name not in ALLOWED] == []


def test_the_start_path_does_not_load_what_only_a_running_vm_needs(imported: list[str]) -> None:
    late = ("vmm_core.qmp.schema", "vmm_core.config.manpage", "vmm_core.config.completion", "vmm_core.accel.tcg")
    assert [name for name in imported if name.startswith(late)] == []
