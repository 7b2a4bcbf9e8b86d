"""The unit file that operators install is one that systemd accepts, and says what the VM relies on."""

from __future__ import annotations

import configparser
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.paths import ROOT
from vmm_core.config import parse
from vmm_core.config.records import VmConfig

UNIT = ROOT / "share/systemd/stratovirt@.service"
DEVICE_LISTS = {"ProtectClock", "PrivateDevices", "DevicePolicy", "DeviceAllow"}  # what forbids /dev/kvm, or did


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
    assert not DEVICE_LISTS & {*service}


def test_the_commands_of_the_page_lead_to_what_the_unit_reads(tmp_path: Path) -> None:
    """Word by word, in a file system that has no more than systemd's directory."""
    page = (ROOT / "docs/limits.md").read_text().partition("## Under systemd")[2]
    script = page.partition("```sh\n")[2].partition("```")[0].replace("sudo ", "")
    for place in (" /etc/", " /usr/bin/", " /srv/", "=/srv/"):
        script = script.replace(place, f"{place[0]}{tmp_path}{place[1:]}")
    (tmp_path / "srv/web").mkdir(parents=True)
    for file in ("vmlinux.bin", "root.img"):
        (tmp_path / "srv/web" / file).touch()
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    (tmp_path / "usr/bin").mkdir(parents=True)
    stub = 'systemctl() { echo "systemctl $*"; }\n'
    result = subprocess.run(["sh", "-euc", stub + script], cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-2:] == ["systemctl daemon-reload", "systemctl start stratovirt@web"]
    assert (tmp_path / "etc/systemd/system" / UNIT.name).read_text() == UNIT.read_text()
    assert (tmp_path / "usr/bin/stratovirt").resolve() == ROOT / ".venv/bin/stratovirt"
    name, _, options = (tmp_path / "etc/stratovirt/web.conf").read_text().partition("=")
    assert name == "OPTIONS"
    config = parse([*("-name", "web"), *shlex.split(options)])
    assert isinstance(config, VmConfig)
    assert [drive.id for drive in config.drives] == ["root"]
