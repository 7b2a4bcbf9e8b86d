"""`python -m tools.bench [--no-tcg] [start|memory|block|restart ...]`: measure against Debian's peers, as ratios.

`--no-tcg` leaves the software CPU out: inside the rig's emulated machine it would take for ever.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tools.bench import block, memory, restart, start
from tools.bench.machines import Machines, PeerHung
from tools.bench.table import Row, show

PARTS = ("start", "memory", "block", "restart")
NO_TCG = "--no-tcg"


def measure(parts: list[str], directory: Path, with_tcg: bool) -> Iterator[Row]:
    """The rows of `parts`; those for KVM only where there is one, Linux on it only where it runs at speed."""
    tcg, kvm = Machines(directory, "tcg"), Machines(directory, "kvm")
    has_kvm, ordinary_kvm = kvm_kinds()
    if "start" in parts:
        yield from start.imports()
        if has_kvm:
            yield from start.first_instruction(kvm)
        if with_tcg:
            yield from unless_hung(start.userspace(tcg, 1.2))
        if ordinary_kvm:
            yield from unless_hung(start.userspace(kvm, 0.5))
    if "memory" in parts:
        if has_kvm:
            yield from memory.rows(kvm, linux=False)
        if with_tcg:
            yield from unless_hung(memory.rows(tcg, linux=True))
        if ordinary_kvm:
            yield from unless_hung(memory.rows(kvm, linux=True))
    if "block" in parts:
        yield from block.rows(directory)
    if "restart" in parts:
        yield from restart.rows(directory, "kvm" if ordinary_kvm else "tcg")


def unless_hung(rows: Iterator[Row]) -> Iterator[Row]:
    """The rows, or a line on why there is no peer to compare with."""
    try:
        yield from rows
    except PeerHung as error:
        print(f"not measured: {error}", flush=True)


def kvm_kinds() -> tuple[bool, bool]:
    """Whether there is a /dev/kvm, and whether the product's probe finds it fit for ordinary guests."""
    from vmm_core.accel import probe

    chosen, reason = probe.choose("auto")
    print(f"accelerator: {chosen} ({reason})")
    return Path("/dev/kvm").exists(), chosen == "kvm"


def main(words: list[str]) -> int:
    parts = [word for word in words if word != NO_TCG]
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        print(f"usage: python -m tools.bench [{NO_TCG}] [{'|'.join(PARTS)} ...]", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        rows = []
        for row in measure(parts or list(PARTS), Path(name), NO_TCG not in words):
            print(f"measured: {row.what}", flush=True)
            rows.append(row)
    show(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
