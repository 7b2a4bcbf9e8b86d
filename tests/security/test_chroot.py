"""A VM started inside a chroot: its root is no mount point, and the sandbox is whole all the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("core_program.py")
SCRIPT = """
set -e
cd "$1"
for place in $(ls /); do
    if [ -d "/$place" ]; then mkdir "$place"; mount --rbind "/$place" "$place"; fi
done
mount --make-rprivate / 2>/dev/null || true
exec chroot "$1" "$2" "$3" 1
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: chroot")
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare (util-linux)")
def test_the_sandbox_is_whole_inside_a_chroot(tmp_path: Path) -> None:
    command = ["unshare", "--mount", "sh", "-c", SCRIPT, "sh", str(tmp_path), sys.executable, str(PROGRAM)]
    core = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert core.stdout is not None
    assert core.stderr is not None
    try:
        words = core.stdout.readline().rstrip("\n").split("\t")
        assert len(words) == 4, (words, core.stderr.read() if len(words) < 4 else "")  # nothing is missing
        assert os.listdir(f"/proc/{words[3]}/root") == []
    finally:
        core.kill()
        core.communicate()
