"""Run test layers: those without guests on all cores at once, guests two at a time, measurements alone."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from tools.paths import ROOT

WIRE_OF_ANY_BACKEND = tuple(f"tests/wire/test_server_{name}.py" for name in ("memory", "messages", "rings", "sessions"))
DISK = "--blk-file={directory}/disk.img --num-queues=4"
DISK_BYTES = 8 << 20
NO_TESTS = 5  # pytest's exit status when it collected nothing


@dataclass(frozen=True)
class Group:
    """Layers that may run in one pytest. `parallel`: spread over processes. `tests` and `options`: instead of all."""

    layers: tuple[str, ...]
    parallel: bool
    tests: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


GROUPS = (
    Group(("unit", "wire", "device", "security"), True),
    Group(("guest", "interop", "faults"), True),
    # Conformance: what every backend must pass, against the disk as the program that others start.
    Group(("wire",), False, WIRE_OF_ANY_BACKEND, (f"--vhost-user-backend={sys.executable} -m backends.blk {DISK}",)),
    Group(("perf",), False),
)


@dataclass
class Total:
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def add(self, report: Path) -> None:
        """Count the results in a JUnit report."""
        for suite in ElementTree.parse(report).getroot().iter("testsuite"):
            counts = {name: int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")}
            self.failed += counts["failures"] + counts["errors"]
            self.skipped += counts["skipped"]
            self.passed += counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("layers", nargs="*", help="default: all")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--long", action="store_true", help="also the soak tests")
    arguments = parser.parse_args()
    began, total, worst = time.monotonic(), Total(), 0
    for group in GROUPS:
        layers = [layer for layer in group.layers if not arguments.layers or layer in arguments.layers]
        if layers:
            tests = list(group.tests) or [f"tests/{layer}" for layer in layers]
            options = [*group.options, *(["--long"] if arguments.long else [])]
            print(f"=== {' '.join([*layers, *group.options])}", flush=True)
            worst = max(worst, run_tests(tests, arguments.jobs if group.parallel else 0, options, total))
    print(f"all layers took {time.monotonic() - began:.0f} s", flush=True)
    print(f"{total.passed} passed, {total.failed} failed, {total.skipped} skipped", flush=True)
    return worst


def run_tests(tests: list[str], jobs: int, options: list[str], total: Total) -> int:
    """One pytest over `tests`; returns its exit status, 0 when it found none."""
    with tempfile.TemporaryDirectory() as name:
        report, disk = Path(name) / "report.xml", Path(name) / "disk.img"
        disk.touch()
        os.truncate(disk, DISK_BYTES)
        command = [sys.executable, "-m", "pytest", *tests, "-q", f"--junitxml={report}"]
        command += [option.format(directory=name) for option in options]
        command += ["-n", str(jobs)] if jobs > 1 else []
        status = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, check=False).returncode
        if report.exists():
            total.add(report)
    return 0 if status == NO_TESTS else status


if __name__ == "__main__":
    sys.exit(main())
