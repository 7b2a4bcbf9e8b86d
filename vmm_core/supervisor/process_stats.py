"""What a process uses, read from /proc: an account that a VM's management asks for once a second.

psutil has the same numbers at a multiple of the price, and lacks some: context switches of all threads, guest memory
told apart. It is the oracle of the tests.
"""

from __future__ import annotations

import os
from time import CLOCK_BOOTTIME, clock_gettime, monotonic

from vmm_core.supervisor.cgroup_files import read

TYPE_CHECKING = False
if TYPE_CHECKING:
    Stats = dict[str, object]

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
_MEMORY = {"RssAnon": "rss-anonymous", "RssFile": "rss-file", "RssShmem": "rss-shared"}
_IO = {
    "rchar": "read-chars", "wchar": "written-chars", "syscr": "read-calls", "syscw": "write-calls",
    "read_bytes": "read-bytes", "write_bytes": "written-bytes",
}  # fmt: skip
_ROLLUP = {"Pss": "pss", "Pss_Anon": "pss-anonymous", "Pss_File": "pss-file", "Pss_Shmem": "pss-shared"}
# The kernel walks every page that a process has mapped, guest memory too, to say its PSS: hundreds of microseconds per
# GiB. So an answer is kept for 2000 times as long as it took.
ROLLUP_SHARE = 2000


def stats(pid: int) -> Stats:
    """CPU seconds, bytes, counts; empty when the process is gone. What we may not read is left out."""
    text = read(f"/proc/{pid}/stat")
    if not text:
        return {}
    fields = text.rpartition(")")[2].split()
    found: Stats = {
        "cpu-user": int(fields[11]) / TICKS,
        "cpu-system": int(fields[12]) / TICKS,
        "minor-faults": int(fields[7]),
        "major-faults": int(fields[9]),
        "threads": int(fields[17]),
        "age": max(0.0, _uptime() - int(fields[19]) / TICKS),
        "rss": int(fields[21]) * PAGE,
    }
    found.update(_sizes(read(f"/proc/{pid}/status"), _MEMORY))
    found.update(_switches(pid))
    found.update({_IO[key]: int(value) for key, value in _pairs(read(f"/proc/{pid}/io")) if key in _IO})
    descriptors = count_descriptors(pid)
    if descriptors >= 0:
        found["descriptors"] = descriptors
    return found


class Rollup:
    """PSS and USS of one process after another, no oftener than their price permits."""

    def __init__(self) -> None:
        self._pid = 0
        self._taken = 0.0
        self._cost = 0.0
        self._stats: Stats = {}

    def read(self, pid: int) -> Stats:
        """The latest numbers and their age in seconds; empty when we may not read them."""
        now = monotonic()
        if pid != self._pid or now > self._taken + ROLLUP_SHARE * self._cost:
            self._stats = _rollup(pid)
            self._pid, self._taken, self._cost = pid, now, monotonic() - now
        return {**self._stats, "pss-age": monotonic() - self._taken} if self._stats else {}


def count_descriptors(pid: int) -> int:
    """Open descriptors; -1 when we may not look."""
    try:
        return os.stat(f"/proc/{pid}/fd").st_size or len(os.listdir(f"/proc/{pid}/fd"))  # a size since Linux 6.2
    except OSError:
        return -1


def _rollup(pid: int) -> Stats:
    text = read(f"/proc/{pid}/smaps_rollup")
    if not text:
        return {}
    private = _sizes(text, {"Private_Clean": "clean", "Private_Dirty": "dirty"})
    return {**_sizes(text, _ROLLUP), "uss": sum(private.values())}


def _sizes(text: str, names: dict[str, str]) -> dict[str, int]:
    return {names[key]: int(value.split()[0]) << 10 for key, value in _pairs(text) if key in names}


def _pairs(text: str) -> list[tuple[str, str]]:
    return [(key, value) for key, colon, value in (line.partition(":") for line in text.splitlines()) if colon]


def _switches(pid: int) -> Stats:
    """Of all its threads; /proc/PID/status speaks of the first alone."""
    voluntary = involuntary = 0
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return {}
    for thread in threads:
        lines = read(f"/proc/{pid}/task/{thread}/status").rsplit("\n", 3)
        if len(lines) == 4:
            voluntary += int(lines[1].rpartition("\t")[2])
            involuntary += int(lines[2].rpartition("\t")[2])
    return {"voluntary-switches": voluntary, "involuntary-switches": involuntary}


def _uptime() -> float:
    return clock_gettime(CLOCK_BOOTTIME)
