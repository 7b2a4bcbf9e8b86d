"""What a backend may use (`-backend …,cpu-max=…`): put in force by whatever the host offers, and said how.

A control group where there is one, else the scheduler and rlimits. `memory-max` is memory of the backend's own: guest
memory that it touches first is charged to its group by the kernel, so the group's limit leaves room for all of that,
and the core looks once a second what is the backend's.
"""

from __future__ import annotations

from vmm_core import log
from vmm_core.supervisor import scheduling
from vmm_core.supervisor.cgroup_files import read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vmm_core.config.records import BackendPolicy
    from vmm_core.loop import EventLoop, Timer
    from vmm_core.supervisor.backend import BackendProcess
    from vmm_core.supervisor.cgroup_files import Leaf
    from vmm_core.supervisor.cgroups import Cgroups
    from vmm_core.supervisor.scheduling import Way

LIMITS = (
    "cpu_max", "memory_max", "pids_max", "io_read_bps", "io_write_bps", "io_read_iops", "io_write_iops", "cpus", "nice"
)  # fmt: skip
IO = {"io_read_bps": "rbps", "io_write_bps": "wbps", "io_read_iops": "riops", "io_write_iops": "wiops"}
MEMORY_INTERVAL = 1.0  # seconds between looks at a backend with memory-max
SIGKILL = 9


class Limits:
    """One device's limits, put in force for each of its processes in turn. For the event loop's thread.

    `shared` is guest memory in bytes that may be charged to the backend; `disk` returns MAJOR:MINOR of the disk below
    the image, or "".
    """

    def __init__(
        self,
        name: str,
        policy: BackendPolicy,
        loop: EventLoop,
        cgroups: Cgroups,
        *,
        shared: int = 0,
        disk: Callable[[], str] = str,
    ) -> None:
        self.name = name
        self.policy = policy
        self.memory_kills = 0
        self.leaf: Leaf | None = None
        self._loop = loop
        self._cgroups = cgroups
        self._shared = shared
        self._disk = disk
        self._processes: list[BackendProcess] = []  # two while one takes over from the other
        self._ways: dict[str, Way] = {}  # what has been put in force, and what was lifted but still holds
        self._timer: Timer | None = None

    def started(self, process: BackendProcess) -> None:
        """A new process serves the device, or is about to."""
        self._processes = [*self._living(), process]
        if process.pid and (self._wanted() or self._cgroups.delegated()):
            self._enter()
        self._apply()

    def confined(self) -> None:
        """Its sandbox stands: that has limits of its own, and has just replaced ours."""
        if self.policy.pids_max is not None:
            self._apply(("pids_max",))

    def change(self, policy: BackendPolicy) -> None:
        """Other limits from now on; those that are None now are lifted."""
        self.policy = policy
        self._apply()

    def report(self) -> list[dict[str, object]]:
        """Each limit that was asked for: its value, whether it is in force, and by what or why not.

        One that could not be lifted is there too: `none`, which is not in force.
        """
        lines: list[dict[str, object]] = []
        ways = self._ways if self._living() else {}
        for name in LIMITS:
            if name not in ways and getattr(self.policy, name) is None:
                continue
            good, way = ways.get(name, (False, "no process"))
            lines.append({"limit": option(name), "value": spell(self.policy, name), "in-force": good, "by": way})
        return lines

    def close(self) -> None:
        """No more looks at the process. Its groups are the `Cgroups`' to remove."""
        self._processes = []
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _living(self) -> list[BackendProcess]:
        return [process for process in self._processes if process.pid and not process.end_reason]

    def _wanted(self) -> list[str]:
        return [name for name in LIMITS if getattr(self.policy, name) is not None]

    def _enter(self) -> Leaf:
        """One leaf for all: a process that takes over and the one that it relieves, or serves on after all."""
        if self.leaf is None:
            self.leaf = self._cgroups.leaf(self.name)
        self.leaf.enter(*(process.pid for process in self._living()))
        return self.leaf

    def _apply(self, which: Iterable[str] = LIMITS) -> None:
        names = [name for name in which if name in self._ways or getattr(self.policy, name) is not None]
        living = self._living()
        if not names or not living:
            return
        leaf = self._enter()
        for name in names:
            way = _weakest([self._put(name, process.pid, leaf) for process in living])
            if way != self._ways.get(name) and not way[0]:
                log.warn(f"{self.name}: {option(name)}={spell(self.policy, name)} is not in force: {way[1]}")
            self._ways[name] = way
            if way[0] and getattr(self.policy, name) is None:
                del self._ways[name]  # lifted: the next process need not be told

    def _put(self, name: str, pid: int, leaf: Leaf) -> Way:
        value = getattr(self.policy, name)
        if name in IO:
            return self._put_io(name, leaf)
        if name == "cpu_max":
            return _by(leaf, "cpu") if leaf.set_cpu_max(value) else self._share(pid, leaf)
        if name == "cpus":
            return _by(leaf, "cpuset") if leaf.set_cpus(value) else self._place(pid, leaf)
        if name == "memory_max":
            return self._put_memory(value, leaf)
        if name == "pids_max":
            return _by(leaf, "pids") if leaf.set_pids_max(value) else scheduling.set_tasks(pid, value)
        return scheduling.set_nice(pid, scheduling.own_nice() if value is None else value)

    def _put_io(self, name: str, leaf: Leaf) -> Way:
        disk = self._disk()
        if not disk:
            return False, "the image lies on no disk of the host"
        if leaf.set_io(disk, IO[name], getattr(self.policy, name)):
            return _by(leaf, "io")
        return False, "no control group for I/O" if not leaf.version("io") else f"the kernel refuses it for disk {disk}"

    def _share(self, pid: int, leaf: Leaf) -> Way:
        """cpu-max without control groups: whole CPUs."""
        good, way = self._place(pid, leaf)
        bound = 100 * len(self._cpus(leaf))
        if good and self.policy.cpu_max not in (None, bound):
            return False, f"no control group for CPUs; CPU affinity bounds it to {bound}%"
        return good, way

    def _place(self, pid: int, leaf: Leaf) -> Way:
        return scheduling.set_affinity(pid, self._cpus(leaf))

    def _cpus(self, leaf: Leaf) -> list[int]:
        """The CPUs to run on, as many as cpu-max allows if nothing else bounds it."""
        share = self.policy.cpu_max
        cpus = list(self.policy.cpus or scheduling.usable_cpus())
        return cpus if share is None or leaf.version("cpu") else cpus[: max(1, share // 100)]

    def _put_memory(self, limit: int | None, leaf: Leaf) -> Way:
        if limit is not None and self._timer is None:
            self._look_again()
        charged = limit + self._shared if limit is not None else None
        if not leaf.set_memory_max(charged):
            return True, f"a look each {MEMORY_INTERVAL:g} s"
        room = f", with {self._shared >> 20} MiB for guest memory; a look each {MEMORY_INTERVAL:g} s"
        return True, f"{_by(leaf, 'memory')[1]}{room if self._shared else ''}"

    # memory-max: what the kernel cannot tell apart.

    def _look_again(self) -> None:
        self._timer = self._loop.call_later(MEMORY_INTERVAL, self._look)

    def _look(self) -> None:
        self._timer = None
        limit = self.policy.memory_max
        if limit is None:
            return
        self._look_again()
        for process in self._living():
            used = own_memory(process.pid, limit)
            if used > limit:
                self.memory_kills += 1
                log.error(f"{self.name}: its backend uses {used >> 10} KiB of {limit >> 10} KiB and is killed")
                process.signal(SIGKILL)


def _weakest(ways: list[Way]) -> Way:
    """What holds of all processes; one that has ended, of which we have not heard yet, does not count."""
    counting = [way for way in ways if way[1] != scheduling.GONE] or ways
    return next((way for way in counting if not way[0]), counting[-1])


def own_memory(pid: int, enough: int) -> int:
    """Anonymous memory in bytes, what is shared with the spawner since the fork counted in part, as PSS does.

    That takes a walk over guest memory, too: up to `enough` bytes the cheaper count of all of it will do.
    """
    everything = _kib(f"/proc/{pid}/status", "RssAnon:")
    return everything if everything <= enough else _kib(f"/proc/{pid}/smaps_rollup", "Pss_Anon:") or everything


def _kib(path: str, key: str) -> int:
    for line in read(path).splitlines():
        if line.startswith(key):
            return int(line.split()[1]) << 10
    return 0


def warn_of_foreign(policy: BackendPolicy, name: str) -> None:
    """A backend that we did not start is not ours to limit: say so."""
    asked = [option(limit) for limit in LIMITS if getattr(policy, limit) is not None]
    if asked:
        log.warn(f"{name}: {', '.join(asked)} not in force: its backend is not a process of ours")


def option(name: str) -> str:
    """The limit's name on the command line."""
    return name.replace("_", "-")


def spell(policy: BackendPolicy, name: str) -> str:
    """A limit's value as on the command line; `none` when there is no such limit."""
    value = getattr(policy, name)
    if value is None:
        return "none"
    if name == "cpus":
        return ":".join(map(str, value))
    if name == "cpu_max":
        return f"{value}%"
    return _size(value) if name == "memory_max" or name.endswith("_bps") else str(value)


def _size(value: int) -> str:
    """In the largest unit that divides it."""
    shift, unit = next(
        (shift, unit) for shift, unit in ((30, "G"), (20, "M"), (10, "K"), (0, "")) if not value % (1 << shift)
    )
    return f"{value >> shift}{unit}"


def _by(leaf: Leaf, controller: str) -> Way:
    return True, f"cgroup v{leaf.version(controller)} {controller}"
