"""What fuzzing has found interesting stays harmless: rings and requests of hostile guests, under ASan and UBSan."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tools import fuzz
from tools.paths import ROOT

pytestmark = [
    pytest.mark.skipif(shutil.which("clang") is None, reason="clang is missing (Debian package clang)"),
    pytest.mark.timeout(300),
]


def replay(program: Path, name: str) -> subprocess.CompletedProcess[bytes]:
    """Run it where it was built, as it leaves the input that breaks it where it runs."""
    command = [str(program), "-runs=0", str(fuzz.corpus(name))]
    return subprocess.run(command, capture_output=True, timeout=120, check=False, cwd=program.parent)


@pytest.mark.parametrize("name", fuzz.NAMES)
def test_no_input_of_the_corpus_breaks_the_device(name: str, tmp_path: Path) -> None:
    done = replay(fuzz.build(name, directory=tmp_path), name)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    assert len(list(fuzz.corpus(name).iterdir())) > 20


def test_the_harness_sees_a_ring_that_believes_the_driver(tmp_path: Path) -> None:
    """Proof that it can fail: a build without one of the checks of what the driver wrote."""
    source = tmp_path / "virtqueue_split.c"
    honest = (ROOT / "backends" / "runtime" / "virtqueue_split.c").read_text()
    check = "    if (*head >= vq->size)\n        return -EINVAL;\n    vq->next_avail++;"
    assert check in honest
    source.write_text(honest.replace(check, "    vq->next_avail++;"))
    done = replay(fuzz.build("ring", directory=tmp_path, instead={"virtqueue_split.c": source}), "ring")
    assert done.returncode != 0
    assert b"ERROR: AddressSanitizer" in done.stderr or b"runtime error" in done.stderr
