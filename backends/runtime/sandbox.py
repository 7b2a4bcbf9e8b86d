"""The sandbox of a backend process (design section 1): what it gives up, in order, and what could not be had.

`confine` comes first, before any thread and before the guest is heard: namespaces, an empty root, no capabilities, no
rights to gain, only the listed descriptors, limits, Landlock. `seal` comes when the device's threads and io_urings
exist: the seccomp filter, over all threads, so that its policy need not allow to make any.
Everything is given up as far as the kernel permits; what it refuses is told in words for the log and QMP, never hidden.
"""

from __future__ import annotations

import errno
import os
import resource
from typing import TYPE_CHECKING

from backends.runtime._sandbox import lib
from ipc.confine import seccomp

if TYPE_CHECKING:
    from collections.abc import Iterable

    Limits = dict[str, tuple[int, int]]

NAMESPACES = (
    ("mount", lib.SC_NS_MOUNT),
    ("network", lib.SC_NS_NET),
    ("IPC", lib.SC_NS_IPC),
    ("UTS", lib.SC_NS_UTS),
    ("cgroup", lib.SC_NS_CGROUP),
)
NOBODY = 65534
# A user for each process, its process id added: above what systemd gives to containers, below 2**31. Users of their own
# cannot signal or trace each other, and share no limit.
OWN_USERS = 2_000_000_000
MAX_DESCRIPTORS = 512  # memory regions, two eventfds for each queue, and room for a new set beside the old
MAX_PRIVATE_MEMORY = 256 << 20  # bytes of heap and stacks; guest memory is shared and does not count
MAX_TASKS = 128  # threads, and io_uring's workers
LIMITS = {
    "core": (resource.RLIMIT_CORE, 0),
    "descriptors": (resource.RLIMIT_NOFILE, MAX_DESCRIPTORS),
    "private memory": (resource.RLIMIT_DATA, MAX_PRIVATE_MEMORY),
    "message queues": (resource.RLIMIT_MSGQUEUE, 0),
    "real-time priority": (resource.RLIMIT_RTPRIO, 0),
}
LIFTED = "seccomp filter: lifted by -disable-seccomp"


class SandboxError(Exception):
    """Confinement failed in a way that must not be served with; one line."""


class _State:
    filter: seccomp.Filter | None = None
    shares_network = False
    counts_alone = False  # the kernel counts nobody's tasks with ours
    landlock = 0


def share_namespaces() -> list[str]:
    """Namespaces that a VM's backends have in common; returns what could not be had.

    PID: the next child will be the first process of it. Network: there is nothing in it, and one for each backend
    would cost a third of the sandbox's time at its start and the kernel's clean-up at its end.
    Without the right to, a user namespace gives it: then this process, and all it forks, are in that one.
    """
    missing: list[str] = []
    result = lib.sc_unshare(lib.SC_NS_PID)
    if result == -errno.EPERM and _note(missing, "user namespace", lib.sc_user_namespace()):
        result = lib.sc_unshare(lib.SC_NS_PID)
    _note(missing, "PID namespace", result)
    _note(missing, "network namespace", lib.sc_unshare(lib.SC_NS_NET))
    _State.shares_network = True
    return missing


def joined_namespaces() -> None:
    """This process was started inside the namespaces that `share_namespaces` of another one made."""
    _State.shares_network = True


def confine(fds: Iterable[int], lifeline: int = -1) -> list[str]:
    """Give up all but `fds` (and the standard ones); returns what could not be had. The process must have one thread.

    `lifeline` is the read end of a pipe: when its last writer is gone the kernel kills this process, also a stuck or
    stopped one. SandboxError when that has happened already, or cannot be arranged.
    """
    missing: list[str] = []
    pid = _host_pid()
    _namespaces(missing)
    _note(missing, "empty bounding set", lib.sc_lock_capabilities())
    _limits(missing, LIMITS)
    _allow_locked_memory()
    if os.geteuid() == 0:
        _leave_root(missing, OWN_USERS + pid)
    else:
        _limit_tasks(missing)
    _demand("give up capabilities", lib.sc_drop_capabilities())
    _demand("give up gaining privileges", lib.sc_no_new_privileges())
    _demand("forbid tracing", lib.sc_undumpable())
    kept = sorted({0, 1, 2, *fds, *([lifeline] if lifeline >= 0 else [])})
    _demand("close descriptors", lib.sc_keep_descriptors(kept, len(kept)))
    landlock = lib.sc_landlock()
    _State.landlock = max(0, landlock)
    _note(missing, "Landlock", landlock)
    if lifeline >= 0:
        _demand("tie my life to the VM's", lib.sc_lifeline(lifeline))
    return missing


def landlock_level() -> int:
    """The ABI version of Landlock in force for this process, which the kernel shows nowhere; 0: none."""
    return _State.landlock


def prepare_filter(policy: seccomp.Filter | None) -> None:
    """What `seal` is to put in force; None (`-disable-seccomp`): nothing."""
    _State.filter = policy


def seal() -> None:
    """Put the prepared filter in force for all threads; nothing after `prepare_filter(None)`. SandboxError."""
    if _State.filter is not None:
        try:
            _State.filter.load()
        except OSError as error:
            raise SandboxError(f"cannot put the seccomp filter in force: {error.strerror}") from error


def _namespaces(missing: list[str]) -> None:
    """New namespaces; in a user namespace of our own if nobody has given us the right to the others.

    Without root always: it stands in for a user of our own.
    """
    mounted = -errno.EPERM if os.geteuid() else lib.sc_unshare(lib.SC_NS_MOUNT)
    if mounted == -errno.EPERM:
        made = _note(missing, "user namespace", lib.sc_user_namespace())
        _State.counts_alone = made and _tasks_are_counted_by_namespace()
    for name, flag in NAMESPACES:
        if name == "network" and _State.shares_network:
            continue
        done = _note(missing, f"{name} namespace", 0 if name == "mount" and not mounted else lib.sc_unshare(flag))
        if name == "mount" and done:
            _note(missing, "empty root", lib.sc_empty_root())


def _tasks_are_counted_by_namespace() -> bool:
    """Since Linux 5.14 a limit of tasks is one of a user in his user namespace, before that of the user anywhere."""
    try:
        with open("/proc/sys/kernel/osrelease", encoding="ascii") as release:
            major, minor = release.read().split(".")[:2]
        return (int(major), int(minor)) >= (5, 14)
    except (OSError, ValueError):
        return False


def _host_pid() -> int:
    """Our number as the host counts; in our own namespace everybody has the same small ones."""
    try:
        return int(os.readlink("/proc/self"))
    except (OSError, ValueError):
        return os.getpid()


def _leave_root(missing: list[str], uid: int) -> None:
    """A user of its own; nobody, where a container has no such users."""
    if _note(missing, "user of its own", lib.sc_become(uid, uid)):
        _State.counts_alone = True
    else:
        _note(missing, "unprivileged user", lib.sc_become(NOBODY, NOBODY))
    _limit_tasks(missing)


def _limit_tasks(missing: list[str]) -> None:
    """Only of what is counted by itself: others' tasks must not use our limit up."""
    if _State.counts_alone:
        _limits(missing, {"tasks": (resource.RLIMIT_NPROC, MAX_TASKS)})
    else:
        missing.append("limit of tasks: others are counted with it")


def _limits(missing: list[str], limits: Limits) -> None:
    for name, (kind, wanted) in limits.items():
        hard = resource.getrlimit(kind)[1]
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        try:
            resource.setrlimit(kind, (value, value))
        except (OSError, ValueError) as error:
            missing.append(f"limit of {name}: {error}")


def _allow_locked_memory() -> None:
    """Buffers registered with an io_uring are guest memory, and count as locked."""
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (OSError, ValueError):
        hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))


def _note(missing: list[str], what: str, result: int) -> bool:
    if result < 0:
        missing.append(f"{what}: {os.strerror(-result)}")
    return bool(result >= 0)


def _demand(what: str, result: int) -> None:
    if result < 0:
        raise SandboxError(f"cannot {what}: {os.strerror(-result)}")
