"""Scheduler settings and rlimits of a running process: what bounds a backend where there are no control groups."""

from __future__ import annotations

import errno
import os
import resource

from vmm_core.supervisor.cgroup_files import read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Way = tuple[bool, str]  # in force?, by what or why not
GONE = "the process is gone"
ROUNDS = 4  # a thread may be born while we go round


def set_nice(pid: int, nice: int) -> Way:
    """Priority of every thread, and so of those to come."""
    failure = _each_thread(pid, lambda thread: os.setpriority(os.PRIO_PROCESS, thread, nice))
    return (not failure, failure or "scheduler")


def own_nice() -> int:
    """This process's priority, with which every backend starts. The core's own filter has no getpriority."""
    return int(read("/proc/self/stat").rpartition(")")[2].split()[16])


def set_affinity(pid: int, cpus: Iterable[int]) -> Way:
    """CPUs that every thread may run on."""
    wanted = set(cpus)
    failure = _each_thread(pid, lambda thread: os.sched_setaffinity(thread, wanted))
    return (not failure, failure or "CPU affinity")


def set_tasks(pid: int, limit: int | None) -> Way:
    """Threads of the user that the process runs as: each backend has a user of its own where the host permits that."""
    try:
        hard = resource.prlimit(pid, resource.RLIMIT_NPROC)[1]
        soft = hard if limit is None else limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.prlimit(pid, resource.RLIMIT_NPROC, (soft, hard))
    except ProcessLookupError:
        return False, GONE
    except (OSError, ValueError) as error:
        return False, f"rlimit: {getattr(error, 'strerror', None) or error}"
    return True, "rlimit NPROC"


def usable_cpus() -> list[int]:
    """CPUs that this process may use, in order."""
    return sorted(os.sched_getaffinity(0))


def threads(pid: int) -> list[int]:
    """Its threads' numbers; none when it is gone."""
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def _each_thread(pid: int, change: Callable[[int], None]) -> str:
    """Change all threads; returns why that failed. io_uring's workers refuse: they follow whom they work for."""
    done: set[int] = set()
    for _ in range(ROUNDS):
        new = [thread for thread in threads(pid) if thread not in done]
        for thread in new:
            try:
                change(thread)
            except ProcessLookupError:
                pass
            except OSError as error:
                if error.errno != errno.EINVAL or thread == pid:
                    return str(error.strerror)
            except ValueError as error:
                return str(error)
        done.update(new)
        if not new:
            break
    return "" if done else GONE
