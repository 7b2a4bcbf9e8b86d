"""Control groups of both versions: what is written where, and what happens when the kernel refuses."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from vmm_core.supervisor import cgroup_files, cgroups
from vmm_core.supervisor.cgroup_files import V1, V2, Hierarchy, Leaf
from vmm_core.supervisor.cgroups import Cgroups

FILES = {
    V2: ("cgroup.procs", "cgroup.threads", "cgroup.type", "cgroup.subtree_control", "cgroup.controllers", "cpu.max",
         "cpu.pressure", "memory.max", "pids.max", "io.max", "cpuset.cpus"),
    V1: ("cgroup.procs", "cpu.cfs_quota_us", "cpu.cfs_period_us", "memory.limit_in_bytes", "pids.max", "cpuset.cpus",
         "cpuset.mems", "blkio.throttle.read_bps_device"),
}  # fmt: skip
ALL = frozenset({"cpu", "cpuset", "memory", "pids", "io"})


def populate(path: Path, version: int) -> None:
    path.mkdir(parents=True, exist_ok=True)
    for name in FILES[version]:
        if not (path / name).exists():
            (path / name).write_text("")


@pytest.fixture
def group(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Leaf, Path]:
    """A leaf whose files are there, and where."""
    version = request.param
    for place in (tmp_path, tmp_path / "backend-a"):
        populate(place, version)
    (tmp_path / "cpuset.cpus").write_text("0-3\n")
    leaf = Leaf("backend-a", [Hierarchy(version, ALL, str(tmp_path))])
    leaf.enter(77)
    return leaf, tmp_path / "backend-a"


@pytest.mark.parametrize("group", [V2], indirect=True)
def test_v2_is_written_as_the_kernel_reads_it(group: tuple[Leaf, Path]) -> None:
    leaf, place = group
    assert (place / "cgroup.procs").read_text() == "77"
    settings = [
        (leaf.set_cpu_max(50), "cpu.max", "50000 100000"),
        (leaf.set_cpu_max(None), "cpu.max", "max 100000"),
        (leaf.set_memory_max(1 << 20), "memory.max", "1048576"),
        (leaf.set_pids_max(16), "pids.max", "16"),
        (leaf.set_io("8:0", "rbps", 4096), "io.max", "8:0 rbps=4096"),
        (leaf.set_io("8:0", "wiops", None), "io.max", "8:0 wiops=max"),
        (leaf.set_cpus((0, 2)), "cpuset.cpus", "0,2"),
    ]
    assert all(done for done, _, _ in settings)
    assert (place / "cpuset.cpus").read_text() == "0,2"
    assert leaf.set_cpu_max(250)
    assert (place / "cpu.max").read_text().startswith("250000 100000")


@pytest.mark.parametrize("group", [V1], indirect=True)
def test_v1_is_written_as_the_kernel_reads_it(group: tuple[Leaf, Path]) -> None:
    leaf, place = group
    assert leaf.set_cpu_max(50)
    assert (place / "cpu.cfs_quota_us").read_text() == "50000"
    assert leaf.set_memory_max(1 << 20)
    assert (place / "memory.limit_in_bytes").read_text() == "1048576"
    assert leaf.set_io("8:0", "rbps", 4096)
    assert (place / "blkio.throttle.read_bps_device").read_text() == "8:0 4096"
    assert leaf.set_cpus(None)
    assert (place / "cpuset.cpus").read_text() == "0-3"


@pytest.mark.parametrize("group", [V2], indirect=True)
def test_a_setting_that_the_kernel_has_not_is_not_in_force(group: tuple[Leaf, Path]) -> None:
    leaf, place = group
    (place / "pids.max").unlink()
    assert not leaf.set_pids_max(16)


@pytest.mark.parametrize("group", [V1], indirect=True)
def test_nothing_is_in_force_for_a_process_that_is_not_in_the_group(group: tuple[Leaf, Path]) -> None:
    leaf, place = group
    (place / "cgroup.procs").unlink()
    leaf.enter(os.getpid())
    assert not leaf.set_cpu_max(50)
    leaf.enter((1 << 22) + 1)  # no process has that number: one that is gone stands in nobody's way
    assert leaf.set_cpu_max(50)


def test_devices_whose_names_come_out_alike_have_groups_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "hierarchies", list)
    groups = Cgroups()
    names = [groups.leaf(role).name for role in ("a.b", "a_b", "a b", "x" * 200, "x" * 201, "\u00e9" * 200)]
    assert len(set(names)) == len(names)
    assert names[:3] == ["backend-a_b", "backend-a_b.2", "backend-a_b.3"]
    assert all(name.isascii() and len(name) < 120 for name in names)


def test_without_hierarchies_nothing_is_in_force_and_nothing_fails() -> None:
    leaf = Leaf("backend-a", [])
    leaf.enter(1)
    assert not any((leaf.set_cpu_max(1), leaf.set_memory_max(1), leaf.set_pids_max(1), leaf.set_io("8:0", "rbps", 1)))
    assert (leaf.paths(), leaf.pressure(), leaf.version("cpu")) == ([], {}, 0)
    leaf.remove()


@pytest.fixture
def delegated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A v2 group that holds this process alone, and whose children come with files, as the kernel's do."""
    populate(tmp_path, V2)
    (tmp_path / "cgroup.procs").write_text(f"{os.getpid()}\n")
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids")
    monkeypatch.setattr(cgroups, "hierarchies", lambda: [Hierarchy(V2, ALL, str(tmp_path))])

    def make(path: str) -> bool:
        populate(Path(path), V2)
        return True

    for module in (cgroups, cgroup_files):
        monkeypatch.setattr(module, "make", make)
    return tmp_path


def test_the_core_makes_room_before_it_hands_controllers_down(delegated: Path) -> None:
    groups = Cgroups(lambda: [501, 502])
    assert groups.delegated()
    groups.leaf("disk 0").enter(77)
    own = delegated / f"stratocell-{os.getpid()}"
    assert (own / "core" / "cgroup.procs").read_text() == str(os.getpid())
    assert (own / "core" / "vcpu" / "cgroup.type").read_text() == "threaded"
    assert (own / "core" / "vcpu" / "cgroup.threads").read_text() in ("501", "502")
    assert (delegated / "cgroup.subtree_control").read_text() != ""
    assert (own / "backend-disk_0" / "cgroup.procs").read_text() == "77"


def test_a_group_shared_with_others_is_not_rearranged(delegated: Path) -> None:
    (delegated / "cgroup.procs").write_text(f"{os.getpid()}\n1\n")
    groups = Cgroups()
    assert not groups.delegated()
    groups.leaf("disk")
    assert not (delegated / f"stratocell-{os.getpid()}" / "core").exists()


def test_only_groups_of_dead_cores_are_removed(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    for name in (f"stratocell-{dead.pid}/backend-a", f"stratocell-{os.getpid()}/backend-a", "stratocell-x", "other"):
        (tmp_path / name).mkdir(parents=True)
    cgroups.remove_leftovers(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", f"stratocell-{os.getpid()}", "stratocell-x"]


def test_hierarchies_are_found_on_this_machine() -> None:
    for each in cgroup_files.hierarchies():
        assert os.path.isdir(each.base), each.base
        assert str(os.getpid()) in (Path(each.base) / "cgroup.procs").read_text().split()
