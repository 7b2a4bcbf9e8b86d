"""Control groups: where this process may make some, one leaf for each role, in v2, v1 or the mixture that systemd has.

A VM's group is `stratocell-PID` below the group that the core was started in. In v2 a group with processes can hand no
controllers down, so the core (with keeper and spawner) moves into a leaf of its own, `core`, first, and its vCPU
threads into `core/vcpu`; that is only done where every process in the group is ours, as under systemd's Delegate=yes.
What the kernel or an administrator does not permit is left out, and the caller told.
"""

from __future__ import annotations

import os

from vmm_core import log
from vmm_core.supervisor.cgroup_files import V1, V2, Hierarchy, Leaf, hierarchies, make, read, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PREFIX = "stratocell-"
WANTED = ("cpu", "cpuset", "memory", "pids", "io")
MOVE_ROUNDS = 100  # what is forked while we look is found by the next


class Cgroups:
    """The groups of one VM. Made when the first leaf is asked for; `close` removes what there is."""

    def __init__(self, vcpu_threads: Callable[[], Sequence[int]] = tuple) -> None:
        self._vcpu_threads = vcpu_threads
        self._hierarchies: list[Hierarchy] | None = None
        self._leaves: list[Leaf] = []
        self._name = f"{PREFIX}{os.getpid()}"
        self._core_moved = False

    def delegated(self) -> bool:
        """Whether there is a v2 group with controllers that is ours alone: then every process gets a leaf."""
        return any(
            each.version == V2 and each.controllers & {*WANTED} and _may_change(each.base) and _all_ours(each.base)
            for each in hierarchies()
        )

    def leaf(self, role: str) -> Leaf:
        """A new leaf for `role`, with whatever controllers can be had: perhaps none."""
        if self._hierarchies is None:
            self._hierarchies = [each for each in hierarchies() if self._open(each)]
        leaf = Leaf(self._free_name(role), [each.below(self._name) for each in self._hierarchies])
        self._leaves.append(leaf)
        return leaf

    def _free_name(self, role: str) -> str:
        """A directory's name for a device's, which may hold anything; one more where two come out alike."""
        plain = "".join(letter if (letter.isascii() and letter.isalnum()) or letter in "-_" else "_" for letter in role)
        name = f"backend-{plain[:100]}"
        taken = {leaf.name for leaf in self._leaves}
        choices = [name, *(f"{name}.{number}" for number in range(2, len(taken) + 2))]
        return next(choice for choice in choices if choice not in taken)

    def close(self) -> None:
        """Remove every group; those of processes that have not ended stay for the next start to remove."""
        for leaf in self._leaves:
            leaf.remove()
        self._leaves = []
        for each in self._hierarchies or []:
            if each.version == V2 and self._core_moved:
                self._move_back(each)
            _remove(os.path.join(each.base, self._name))
        self._hierarchies = None

    def _open(self, hierarchy: Hierarchy) -> bool:
        """Make this VM's group in a hierarchy, after removing those of VMs that were killed."""
        if not _may_change(hierarchy.base):
            return False
        remove_leftovers(hierarchy.base)
        group = os.path.join(hierarchy.base, self._name)
        if not make(group):
            return False
        if hierarchy.version == V1:
            hierarchy.inherit(group)
        elif hierarchy.controllers & {*WANTED}:
            self._hand_down(hierarchy, group)
        return True

    def _hand_down(self, hierarchy: Hierarchy, group: str) -> None:
        if _all_ours(hierarchy.base):
            core = os.path.join(group, "core")
            self._core_moved = make(core)
            if not (self._core_moved and _move_all(hierarchy.base, core)):
                log.warn(f"{hierarchy.base}: some process of this VM cannot be moved to a group of its own")
        for place in (hierarchy.base, group):
            for controller in WANTED:
                if controller in hierarchy.controllers:
                    write(os.path.join(place, "cgroup.subtree_control"), f"+{controller}")
        hierarchy.controllers = frozenset(read(os.path.join(group, "cgroup.subtree_control")).split())
        if self._core_moved:
            self._place_vcpus(os.path.join(group, "core", "vcpu"))

    def _place_vcpus(self, place: str) -> None:
        """Threads can have groups of their own below a process's."""
        if make(place) and write(os.path.join(place, "cgroup.type"), "threaded"):
            for thread in self._vcpu_threads():
                if thread:
                    write(os.path.join(place, "cgroup.threads"), str(thread))

    def _move_back(self, hierarchy: Hierarchy) -> None:
        for place in (os.path.join(hierarchy.base, self._name), hierarchy.base):
            for controller in read(os.path.join(place, "cgroup.subtree_control")).split():
                write(os.path.join(place, "cgroup.subtree_control"), f"-{controller}")
        write(os.path.join(hierarchy.base, "cgroup.procs"), str(os.getpid()))


def remove_all_leftovers() -> None:
    """What killed VMs left in the groups that this process is in."""
    for each in hierarchies():
        if _may_change(each.base):
            remove_leftovers(each.base)


def remove_leftovers(base: str) -> None:
    """Groups of cores that are gone: they were killed and could not."""
    try:
        names = os.listdir(base)
    except OSError:
        return
    for name in names:
        pid = name.removeprefix(PREFIX)
        if pid != name and pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            _remove(os.path.join(base, name))
            log.info(f"removed {name}, the control group of a VM that was killed")


def _remove(group: str) -> None:
    """Remove a group and those below it; one with processes in it stays."""
    try:
        for entry in os.scandir(group):
            if entry.is_dir(follow_symlinks=False):
                _remove(entry.path)
        os.rmdir(group)
    except OSError:
        pass


def _may_change(base: str) -> bool:
    return os.access(base, os.W_OK) and os.access(os.path.join(base, "cgroup.procs"), os.W_OK)


def _processes(group: str) -> list[int]:
    return [int(word) for word in read(os.path.join(group, "cgroup.procs")).split()]


def _move_all(group: str, target: str) -> bool:
    """Move every process; those that are forked or end meanwhile, as the spawner's do, make it look again."""
    for _ in range(MOVE_ROUNDS):
        pids = _processes(group)
        if not pids:
            return True
        for pid in pids:
            write(os.path.join(target, "cgroup.procs"), str(pid))
    return False


def _all_ours(group: str) -> bool:
    """Whether nobody but this process and its descendants is in a group."""
    return all(_is_ours(pid) for pid in _processes(group))


def _is_ours(pid: int) -> bool:
    """Whether it descends from us, or has ended meanwhile. When an ancestor ends, its children have another parent."""
    ancestor = pid
    while ancestor > 1 and ancestor != os.getpid():
        fields = [line.split() for line in read(f"/proc/{ancestor}/status").splitlines() if line.startswith("PPid:")]
        if not fields and ancestor == pid:
            return True
        ancestor = int(fields[0][1]) if fields else pid
    return ancestor == os.getpid()
