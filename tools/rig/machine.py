"""Boot the rig for one job and bring back its exit status."""

from __future__ import annotations

import os
import select
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tools.paths import ROOT
from tools.rig.artefacts import Artefacts, prepare

KERNEL_WORDS = "console=ttyS0 panic=-1 loglevel=3 mitigations=off tsc=reliable norandmaps"
# ERMS makes nested boots slower and slower; 5-level paging is not emulated well.
PROCESSOR = "max,+svm,-la57,-erms"
ENVIRONMENT = {"HOME": "/root", "TERM": "dumb", "LANG": "C.UTF-8", "TMPDIR": "/var/tmp", "STRATOCELL_TIME_SCALE": "10"}
# One CPU: QEMU 7.2's SVM emulation on several at once loses guests of two vCPUs under load, QEMU's own like ours
# (with verified I/O 2 of 7 QEMU's boots and 3 of 8 ours ended in a triple fault or hung; on one CPU none of either).
CPUS = 1
LOOK, FROZEN = 5.0, 120.0  # seconds between looks for a sign of life, and without one
SCRATCH, SCRATCH_SIZE = "scratch", "8G"


class RigFailed(Exception):
    """The rig itself did not work; the job's own failure is its exit status."""


class RigFroze(RigFailed):
    """Its kernel stopped, which no program in it can cause: worth another try."""


def run(command: list[str], limit: float, memory: str = "6G", cpus: int = CPUS) -> int:
    """Run `command` in the checkout inside the rig, its output on standard output; returns its exit status."""
    artefacts = prepare()
    with tempfile.TemporaryDirectory(prefix="rig-") as name:
        job = Path(name)
        make_scratch_disk(job / SCRATCH)
        (job / "run.sh").write_text(job_script(command))
        _boot(qemu_command(artefacts, job, memory, cpus), limit, job / "alive")
        status = job / "status"
        if not status.exists():
            raise RigFailed("the job did not finish: no exit status came back")
        return int(status.read_text())


def job_script(command: list[str]) -> str:
    """The shell script that the rig runs: in the checkout, with a clean environment but for the host's PATH."""
    environment = {**ENVIRONMENT, "PATH": os.environ["PATH"]}
    assignments = [f"{name}={shlex.quote(value)}" for name, value in environment.items()]
    where = shlex.quote(str(ROOT))
    return f"cd {where} || exit 125\nexec env -i {' '.join(assignments)} {shlex.join(command)}\n"


def make_scratch_disk(path: Path) -> None:
    """Where the job puts its own files: the overlay and /tmp are in memory, and know no direct I/O."""
    search = os.environ["PATH"] + ":/usr/sbin:/sbin"
    make = ["mke2fs", "-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=1", str(path), SCRATCH_SIZE]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "PATH": search})


def qemu_command(artefacts: Artefacts, job: Path, memory: str, cpus: int) -> list[str]:
    shared = "security_model=none,multidevs=remap"
    return [
        "qemu-system-x86_64",
        *("-accel", "tcg,thread=multi", "-cpu", PROCESSOR, "-smp", str(cpus), "-m", memory),
        *("-kernel", str(artefacts.kernel), "-initrd", str(artefacts.initramfs), "-append", KERNEL_WORDS),
        *("-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio"),
        *("-virtfs", f"local,path=/,mount_tag=host,readonly=on,{shared}"),
        *("-virtfs", f"local,path={job},mount_tag=job,{shared}"),
        *("-drive", f"file={job / SCRATCH},if=virtio,format=raw,cache=unsafe"),
    ]  # fmt: skip


def _boot(command: list[str], limit: float, alive: Path) -> None:
    """Run QEMU, relaying its console, until it ends. RigFailed after `limit` seconds, RigFroze without life."""
    began = time.monotonic()
    end = began + limit
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        while True:
            ready, _, _ = select.select([process.stdout], [], [], LOOK)
            if time.monotonic() > end:
                raise RigFailed(f"the job did not finish within {limit:g} s")
            if not ready and _seconds_since(alive, began) > FROZEN:
                raise RigFroze(f"no sign of life for {FROZEN:g} s")
            if not ready:
                continue
            data = os.read(process.stdout.fileno(), 65536)
            if not data:
                break
            sys.stdout.buffer.write(data.replace(b"\r", b""))
            sys.stdout.buffer.flush()
        process.wait(max(1.0, end - time.monotonic()))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _seconds_since(alive: Path, began: float) -> float:
    """Since the rig's last sign of life, or since it was switched on."""
    try:
        return time.time() - alive.stat().st_mtime
    except FileNotFoundError:
        return time.monotonic() - began
