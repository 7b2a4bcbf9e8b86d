"""Start: exec to the guest's first instruction, and to its /init (design, section 5)."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator

from tools.bench.machines import Machines, peer_time_until, time_until
from tools.bench.table import Row, median
from tools.bench.tiny_kernel import MARK
from tools.paths import ROOT, START_IMAGE

FIRST_RUNS, INIT_RUNS, IMPORT_RUNS = 15, 4, 15
INIT = b"STRATOCELL init"
# Modules that import most of the start path.
HEADS = ("vmm_core.cli", "vmm_core.config.builder", "vmm_core.main", "vmm_core.vm", "vmm_core.supervisor.spawner")


def first_instruction(machines: Machines) -> Iterator[Row]:
    """Ours alone, against QEMU with the same kernel, and against the first thing that QEMU's guest can do at all."""
    commands = [*machines.tiny(), machines.tiny_firmware()]
    times: list[list[float]] = [[], [], []]
    for _ in range(FIRST_RUNS):
        for series, command in zip(times, commands, strict=True):
            series.append(time_until(command, MARK))
    ours, kernel, firmware = (median(series) for series in times)
    name = f"first instruction, {machines.accelerator}"
    text, *peers = [" ".join(command) for command in commands]
    yield Row(f"{name}, absolute", "ms", ours, None, 50.0, True, text)
    yield Row(f"{name}, of the kernel", "ms", ours, kernel, 0.5, True, f"{text}  against  {peers[0]}")
    yield Row(f"{name}, QEMU's of its firmware", "ms", ours, firmware, None, True, f"{text}  against  {peers[1]}")


def userspace(machines: Machines, aim: float) -> Iterator[Row]:
    """Debian's kernel from exec to /init."""
    ours_command, qemu_command = machines.linux("commands", "stratocell.stop_at=init")
    ours, qemu = [], []
    for _ in range(INIT_RUNS):
        ours.append(time_until(ours_command, INIT))
        qemu.append(peer_time_until(qemu_command, INIT))
    command = f"{' '.join(ours_command)}  against  {' '.join(qemu_command)}"
    yield Row(f"/init, {machines.accelerator}", "ms", median(ours), median(qemu), aim, True, command)


def imports() -> Iterator[Row]:
    """What the interpreter and our modules cost before any VM exists, against the bare interpreter."""
    places = [str(ROOT), sysconfig.get_path("platlib")]
    image = f"import gc; gc.disable(); from vmm_core.start_image import use; use({str(START_IMAGE)!r})"
    program = f"import sys; sys.path += {places!r}; {image}; import {', '.join(HEADS)}"
    bare, full = [], []
    for _ in range(IMPORT_RUNS):
        bare.append(_run_time("pass"))
        full.append(_run_time(program))
    command = f'{sys.executable} -I -S -c "{program}"'
    yield Row("interpreter and imports of the start path", "ms", median(full), None, None, True, command)
    yield Row("imports alone", "ms", median(full) - median(bare), None, None, True, f"{command}, less  -c pass")


def _run_time(program: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True)
    return (time.perf_counter() - began) * 1000
