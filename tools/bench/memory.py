"""Memory: PSS of every process of a VM, guest RAM left out (design, section 5)."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from tools.bench.machines import LIMIT, MEMORY, PEER_LIMIT, Machines, Started, patiently
from tools.bench.table import Row
from tools.bench.tiny_kernel import MARK

MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \d+\s*(.*)$")
GUEST_RAM_NAMES = ("/memfd:", "/dev/hugepages", "anon_hugepage")


SETTLED, QUIET = 0.01, 0.5  # share by which, and seconds in which, a settled VM changes


def settled_overhead(pid: int) -> float:
    """The overhead once it no longer changes: our backends start when the guest already runs."""
    before = overhead(pid)
    for _ in range(int(LIMIT / QUIET)):
        time.sleep(QUIET)
        now = overhead(pid)
        if abs(now - before) <= SETTLED * now:
            return now
        before = now
    raise TimeoutError(f"the memory of process {pid} does not settle")


def overhead(pid: int) -> float:
    """KiB of PSS of process `pid` and all its descendants, without the mappings of guest RAM."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(_process_overhead(process.pid) for process in family)


def _process_overhead(pid: int) -> float:
    total, counted = 0.0, True
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        mapping = MAPPING.match(line)
        if mapping:
            counted = not _is_guest_ram(int(mapping[1], 16), int(mapping[2], 16), mapping[3])
        elif counted and line.startswith("Pss:"):
            total += float(line.split()[1])
    return total


def _is_guest_ram(start: int, end: int, name: str) -> bool:
    return name.startswith(GUEST_RAM_NAMES) and end - start >= MEMORY << 19


def rows(machines: Machines, linux: bool) -> Iterator[Row]:
    """Both VMs, idle: with Debian's kernel waiting at its shell, or halted after its first instructions."""
    commands = machines.linux("commands") if linux else machines.tiny()
    mark = b"STRATOCELL ready" if linux else MARK
    ours = _measure(commands[0], mark, LIMIT) / 1024
    qemu = patiently(lambda: _measure(commands[1], mark, PEER_LIMIT), mark) / 1024
    guest = "Debian at its shell" if linux else "an idle guest"
    text = f"PSS of all processes less guest RAM: {' '.join(commands[0])}  against  {' '.join(commands[1])}"
    yield Row(f"memory overhead, {machines.accelerator}, {guest}", "MiB", ours, qemu, 1.0, True, text)


def _measure(command: list[str], mark: bytes, limit: float) -> float:
    """KiB once the VM has said `mark`, which takes it at most `limit` seconds."""
    started = Started(command)
    try:
        started.wait_for(mark, limit)
        return settled_overhead(started.process.pid)
    finally:
        started.close()
