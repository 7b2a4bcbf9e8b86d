"""What management software is told of the disk's backend is true (QEMU's docs/interop/vhost-user.json)."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

from tools.paths import ROOT

BLOCK_FEATURES = {"read-only", "blk-file"}  # VHostUserBackendBlockFeature


def test_the_descriptor_names_what_the_program_says_it_is() -> None:
    path = ROOT / "share" / "vhost-user" / "50-stratocell-blk.json"
    descriptor = json.loads(path.read_text())
    assert descriptor.keys() - {"tags"} == {"description", "type", "binary"}
    assert all(isinstance(tag, str) for tag in descriptor["tags"])
    binary = Path(descriptor["binary"])
    assert binary.is_absolute()
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, function = scripts[binary.name].partition(":")
    code = f"from {module} import {function}; {function}()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--print-capabilities"], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    capabilities = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert capabilities["type"] == descriptor["type"] == "block"
    assert set(capabilities["features"]) == BLOCK_FEATURES


def test_each_feature_is_an_option_of_the_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "backends.blk", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert all(f"--{feature}" in done.stdout for feature in BLOCK_FEATURES)
