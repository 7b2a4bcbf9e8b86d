"""What a process may do and holds, read back from the kernel: not what was asked for, but what is in force.

Only `x-query-backends` asks for it. What we may not read is left out: an unprivileged core may not look into its
backends, as they are not dumpable.
"""

from __future__ import annotations

import os
import stat
from time import CLOCK_BOOTTIME, clock_gettime

TYPE_CHECKING = False
if TYPE_CHECKING:
    Facts = dict[str, object]

TICKS = os.sysconf("SC_CLK_TCK")
MAX_LISTED = 512  # memory regions: a rogue can have tens of thousands, which are not to become megabytes of an answer
NAMESPACES = ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup", "time")
SECCOMP = ("disabled", "strict", "filter")
CAPABILITIES = {
    "CapInh": "inheritable",
    "CapPrm": "permitted",
    "CapEff": "effective",
    "CapBnd": "bounding",
    "CapAmb": "ambient",
}
FILES = (
    (stat.S_ISREG, "file"),
    (stat.S_ISBLK, "block-device"),
    (stat.S_ISCHR, "character-device"),
    (stat.S_ISDIR, "directory"),
)


def report(pid: int) -> Facts:
    """Everything below for one process; empty when it is gone."""
    status = _status(pid)
    if not status:
        return {}
    facts: Facts = {
        "user": int(status["Uid"].split()[1]),
        "group": int(status["Gid"].split()[1]),
        "no-new-privileges": status.get("NoNewPrivs") == "1",
        "seccomp": _seccomp(status),
        "capabilities": {name: int(status[line], 16) for line, name in CAPABILITIES.items() if line in status},
    }
    for name, found in (
        ("uptime", _uptime(pid)),
        ("namespaces", namespaces(pid)),
        ("descriptors", descriptors(pid)),
        ("cgroups", _cgroups(pid)),
        ("memory-regions", memory_regions(pid)),
    ):
        if found is not None:
            facts[name] = found
    return facts


def namespaces(pid: int) -> Facts | None:
    """Each kind's inode number, and whether it is another than the core's."""
    found: Facts = {}
    for kind in NAMESPACES:
        try:
            theirs, ours = (os.readlink(f"/proc/{who}/ns/{kind}") for who in (pid, "self"))
        except OSError:
            continue
        found[kind] = {"inode": int(theirs.partition("[")[2].rstrip("]")), "own": theirs != ours}
    return found or None


def descriptors(pid: int) -> dict[str, int] | None:
    """How many there are of each kind: `socket`, `eventfd`, `io_uring`, `memfd`, `file` and so on."""
    counts: dict[str, int] = {}
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return None
    for number in numbers:
        kind = _kind(f"/proc/{pid}/fd/{number}")
        if kind:
            counts[kind] = counts.get(kind, 0) + 1
    return dict(sorted(counts.items()))


def memory_regions(pid: int) -> list[Facts] | None:
    """Memory that it shares with others, and all that it could execute; private data is in the account."""
    lines = _read(f"/proc/{pid}/maps").splitlines()
    found: list[Facts] = []
    for line in lines:
        addresses, permissions, _offset, _device, _inode, *name = line.split(None, 5)
        if permissions[3] != "s" and "x" not in permissions:
            continue
        if len(found) == MAX_LISTED:
            break
        start, _, end = addresses.partition("-")
        what = name[0].removesuffix(" (deleted)") if name else "anonymous"
        found.append({"name": what, "size": int(end, 16) - int(start, 16), "permissions": permissions})
    return found if lines else None


def _kind(link: str) -> str:
    """Of the descriptor behind `/proc/PID/fd/N`; empty when it is gone."""
    try:
        target = os.readlink(link)
        if target.startswith("anon_inode:"):
            return target.partition(":")[2].strip("[]")
        if target.startswith("/memfd:"):
            return "memfd"
        if not target.startswith("/"):
            return target.partition(":")[0]
        mode = os.stat(link).st_mode
    except OSError:
        return ""
    return next((name for test, name in FILES if test(mode)), "other")


def _seccomp(status: dict[str, str]) -> Facts:
    mode = int(status.get("Seccomp", "0"))
    facts: Facts = {"mode": SECCOMP[mode] if mode < len(SECCOMP) else str(mode)}
    if "Seccomp_filters" in status:
        facts["filters"] = int(status["Seccomp_filters"])
    return facts


def _uptime(pid: int) -> float | None:
    """Seconds since its start."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return round(max(0.0, clock_gettime(CLOCK_BOOTTIME) - int(fields[19]) / TICKS), 2) if fields else None


def _cgroups(pid: int) -> list[str] | None:
    """`HIERARCHY:PATH` for v1 controllers, the path alone for v2."""
    lines = [line.split(":", 2) for line in _read(f"/proc/{pid}/cgroup").splitlines()]
    return [path if not controllers else f"{controllers}:{path}" for _, controllers, path in lines] or None


def _status(pid: int) -> dict[str, str]:
    lines = (line.partition(":") for line in _read(f"/proc/{pid}/status").splitlines())
    return {name: value.strip() for name, _, value in lines}


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
