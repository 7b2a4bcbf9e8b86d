"""The unit file that operators install is one that systemd accepts, and says what the VM relies on."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.paths import ROOT

UNIT = ROOT / "share/systemd/stratovirt@.service"


def verified(directory: Path, text: str) -> str:
    """What systemd says about the unit's instance `web`; nothing is good."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    unit = directory / UNIT.name
    unit.write_text(text.replace("/usr/bin/stratovirt", sys.executable))
    instance = directory / "stratovirt@web.service"
    instance.symlink_to(unit)
    result = subprocess.run(["systemd-analyze", "verify", str(instance)], capture_output=True, text=True, timeout=50)
    return "\n".join(line for line in result.stderr.splitlines() if "stratovirt" in line)


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    assert verified(tmp_path, UNIT.read_text()) == ""


def test_the_verifier_would_have_noticed(tmp_path: Path) -> None:
    assert "WatchdogSex" in verified(tmp_path, UNIT.read_text().replace("WatchdogSec", "WatchdogSex"))


def test_the_unit_asks_for_what_the_vm_does() -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text())
    service = parser["Service"]
    assert service["Type"] == "notify"
    assert service["Delegate"].split() == ["cpu", "cpuset", "io", "memory", "pids"]
    assert float(service["WatchdogSec"]) >= 10
    assert service["RuntimeDirectory"] == "stratocell"
