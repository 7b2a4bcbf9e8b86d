"""In a delegated v2 group, as systemd gives one: core, vCPUs and each backend get leaves, and all of them go again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deadlines import Deadline
from tests.processes import LIMIT, RawQmp, TestMachine
from vmm_core.supervisor.cgroup_files import V2, hierarchies

CONTROLLERS = {"cpu", "cpuset", "io", "memory", "pids"}
TOP = next((each.base for each in hierarchies() if each.version == V2 and each.controllers >= CONTROLLERS), "")
pytestmark = [
    pytest.mark.rig,
    pytest.mark.skipif(
        not TOP or os.geteuid() != 0 or not os.access(f"{TOP}/cgroup.subtree_control", os.W_OK),
        reason="needs root in a v2 control group that has all controllers",
    ),
]


@pytest.fixture
def unit() -> Iterator[Path]:
    """A group with controllers and nobody in it."""
    for controller in CONTROLLERS:
        try:
            Path(TOP, "cgroup.subtree_control").write_text(f"+{controller}")
        except OSError:
            pytest.skip("the v2 control group has processes beside those of a service manager")
    path = Path(TOP, f"unit-{os.getpid()}")
    path.mkdir()
    yield path
    path.rmdir()  # fails if the VM left a group behind


@pytest.fixture
def machine(unit: Path, tmp_path: Path) -> Iterator[TestMachine]:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    machine = TestMachine(
        tmp_path,
        *("-drive", f"file={image},id=d,direct=off", "-device", "virtio-blk-device,drive=d,id=disk0"),
        *("-backend", "disk0,cpu-max=50%,memory-max=64M,pids-max=32,cpus=0"),
        preexec_fn=lambda: (unit / "cgroup.procs").write_text(str(os.getpid())),
    )
    yield machine
    machine.close()


def account(client: RawQmp) -> dict[str, Any]:
    """The disk's, when its backend runs."""
    deadline = Deadline(LIMIT)
    while deadline.left() > 0:
        (entry,) = client.value("x-query-backend-stats")["backends"]
        if "cgroups" in entry:
            found: dict[str, Any] = entry
            return found
    raise AssertionError("the backend has no control group")


def test_every_role_has_its_leaf_and_none_is_left(machine: TestMachine, unit: Path) -> None:
    client = machine.qmp()
    entry = account(client)
    vm = unit / f"stratocell-{machine.process.pid}"
    leaf = vm / "backend-disk0"
    assert entry["cgroups"] == [str(leaf)]
    assert {each["by"].split(",")[0] for each in entry["limits"]} == {
        f"cgroup v2 {name}" for name in ("cpu", "memory", "pids", "cpuset")
    }
    assert set(entry["pressure"]) == {"cpu", "memory", "io"}
    assert (leaf / "cpu.max").read_text().split() == ["50000", "100000"]
    assert (leaf / "pids.max").read_text().strip() == "32"
    assert (leaf / "cgroup.procs").read_text().split() == [str(entry["pid"])]
    assert str(machine.process.pid) in (vm / "core" / "cgroup.procs").read_text().split()
    assert len((vm / "core" / "vcpu" / "cgroup.threads").read_text().split()) == 1
    client.value("quit")
    machine.wait()
    assert [path for path in unit.iterdir() if path.is_dir()] == []


def test_a_limit_holds_the_old_process_after_an_upgrade_that_failed(machine: TestMachine, unit: Path) -> None:
    client = machine.qmp()
    entry = account(client)
    client.send(b'{"execute":"x-backend-upgrade","arguments":{"id":"disk0","command":"/bin/false"}}')
    assert "the old backend serves on" in client.message()["error"]["desc"]
    changes = {"id": "disk0", "cpu-max": "20%", "memory-max": "none", "io-read-iops": "none"}
    client.send(json.dumps({"execute": "x-backend-set-limits", "arguments": changes}).encode())
    assert all(each["in-force"] for each in client.message()["return"]["limits"])
    leaf = unit / f"stratocell-{machine.process.pid}" / "backend-disk0"
    assert (leaf / "cpu.max").read_text().split() == ["20000", "100000"]
    assert (leaf / "memory.max").read_text().strip() == "max"
    assert (leaf / "cgroup.procs").read_text().split() == [str(entry["pid"])]
    client.value("quit")
    machine.wait()
