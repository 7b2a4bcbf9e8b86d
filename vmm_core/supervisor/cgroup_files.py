"""The files of control groups, v1 and v2: finding the hierarchies, and the leaf that one process lives in."""

from __future__ import annotations

import os

V1, V2 = 1, 2
PERIOD = 100_000  # microseconds over which cpu-max is counted
CONTROLLERS = {"cpu", "cpuset", "memory", "pids", "blkio", "io"}
PRESSURES = ("cpu", "memory", "io")
_IO_V1 = {"rbps": "read_bps", "wbps": "write_bps", "riops": "read_iops", "wiops": "write_iops"}


class Hierarchy:
    """One tree of groups: its controllers (v1's blkio is called io here) and the group that we are in."""

    def __init__(self, version: int, controllers: frozenset[str], base: str) -> None:
        self.version = version
        self.controllers = frozenset("io" if name == "blkio" else name for name in controllers)
        self.base = base

    def below(self, name: str) -> Hierarchy:
        return Hierarchy(self.version, self.controllers, os.path.join(self.base, name))

    def inherit(self, group: str) -> None:
        """In v1 a new cpuset is empty, and nobody can be put into it."""
        if self.version == V1 and "cpuset" in self.controllers:
            for name in ("cpuset.cpus", "cpuset.mems"):
                write(os.path.join(group, name), read(os.path.join(os.path.dirname(group), name)).strip())


def hierarchies() -> list[Hierarchy]:
    """Those that are mounted and know this process, v2 first."""
    ours = _own_groups()
    found: list[Hierarchy] = []
    for line in read("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        root, place = before.split()[3:5]
        kind, _source, options = after.split()[:3]
        names = frozenset(options.split(",")) & CONTROLLERS
        group = ours.get(V2 if kind == "cgroup2" else names)
        if group is None or not kind.startswith("cgroup"):
            continue
        base = os.path.normpath(place + "/" + (group[len(root) :] if group.startswith(root) else group))
        if kind == "cgroup2":
            available = frozenset(read(os.path.join(base, "cgroup.controllers")).split())
            found.insert(0, Hierarchy(V2, available, base))
        else:
            found.append(Hierarchy(V1, names, base))
    return found


def _own_groups() -> dict[int | frozenset[str], str]:
    """The groups of this process: by their controllers in v1, by V2 in v2."""
    groups: dict[int | frozenset[str], str] = {}
    for line in read("/proc/self/cgroup").splitlines():
        number, names, path = line.split(":", 2)
        known = frozenset(names.split(",")) & CONTROLLERS
        if number == "0" and not names:
            groups[V2] = path
        elif known:
            groups[known] = path
    return groups


class Leaf:
    """The groups of one device's processes, one in each hierarchy. A controller's group is made when first needed."""

    def __init__(self, name: str, parents: list[Hierarchy]) -> None:
        self.name = name
        self._groups = [parent.below(name) for parent in parents]
        self._pids: tuple[int, ...] = ()

    def version(self, controller: str) -> int:
        """1 or 2: where the controller can be had; 0: nowhere."""
        group = self._with(controller)
        return group.version if group else 0

    def enter(self, *pids: int) -> None:
        """These are the processes now: put them into every group that exists, and into each that will be made."""
        self._pids = pids
        for group in self._groups:
            if (group.version == V2 and make(group.base)) or os.path.isdir(group.base):
                self._fill(group)

    def set_cpu_max(self, percent: int | None) -> bool:
        """Percent of one CPU; None: no limit."""
        quota = percent * PERIOD // 100 if percent else None
        if self.version("cpu") == V2:
            return self._put("cpu", "cpu.max", f"{quota or 'max'} {PERIOD}")
        if not self._put("cpu", "cpu.cfs_period_us", str(PERIOD)):
            return False
        return self._put("cpu", "cpu.cfs_quota_us", str(quota or -1))

    def set_memory_max(self, limit: int | None) -> bool:
        """Bytes that are charged to the group, page cache included."""
        if self.version("memory") == V2:
            return self._put("memory", "memory.max", str(limit or "max"))
        return self._put("memory", "memory.limit_in_bytes", str(limit or -1))

    def set_pids_max(self, limit: int | None) -> bool:
        return self._put("pids", "pids.max", str(limit or "max"))

    def set_cpus(self, cpus: tuple[int, ...] | None) -> bool:
        """None: all that the group above has."""
        group = self._ready("cpuset")
        if group is None:
            return False
        given = ",".join(map(str, cpus or ()))
        if not given and group.version == V1:
            given = read(os.path.join(os.path.dirname(group.base), "cpuset.cpus")).strip()
        return self._put("cpuset", "cpuset.cpus", given)

    def set_io(self, device: str, what: str, limit: int | None) -> bool:
        """`what` is rbps, wbps, riops or wiops; `device` is MAJOR:MINOR of a whole disk."""
        if self.version("io") == V2:
            return self._put("io", "io.max", f"{device} {what}={limit or 'max'}")
        return self._put("io", f"blkio.throttle.{_IO_V1[what]}_device", f"{device} {limit or 0}")

    def pressure(self) -> dict[str, str]:
        """PSI by resource, as the kernel words it; only v2 groups have it."""
        texts = {
            resource: read(os.path.join(group.base, f"{resource}.pressure"))
            for group in self._groups
            if group.version == V2
            for resource in PRESSURES
        }
        return {resource: text for resource, text in texts.items() if text}

    def paths(self) -> list[str]:
        """The groups that exist."""
        return [group.base for group in self._groups if os.path.isdir(group.base)]

    def remove(self) -> None:
        """Empty groups go; the kernel keeps those that still have a process."""
        for path in self.paths():
            try:
                os.rmdir(path)
            except OSError:
                pass

    def _with(self, controller: str) -> Hierarchy | None:
        return next((group for group in self._groups if controller in group.controllers), None)

    def _ready(self, controller: str) -> Hierarchy | None:
        """The controller's group, with every process in it; None when that cannot be."""
        group = self._with(controller)
        if group is None:
            return None
        if not os.path.isdir(group.base):
            if not make(group.base):
                return None
            group.inherit(group.base)
        return group if self._fill(group) else None

    def _fill(self, group: Hierarchy) -> bool:
        """Whether all of the processes that still live are in a group: those that are not are put there."""
        members = os.path.join(group.base, "cgroup.procs")
        present = read(members).split()
        return all(
            str(pid) in present or write(members, str(pid)) or not os.path.exists(f"/proc/{pid}") for pid in self._pids
        )

    def _put(self, controller: str, name: str, value: str) -> bool:
        group = self._ready(controller)
        return group is not None and write(os.path.join(group.base, name), value)


def make(path: str) -> bool:
    """Make a group; true when it is there."""
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        pass
    except OSError:
        return False
    return True


def read(path: str) -> str:
    """A file's text; nothing when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def write(path: str, value: str) -> bool:
    """Write a setting in one call; false when the kernel refuses."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(fd, value.encode())
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
