"""Start a VM from a command line and hold on to everything it is: process, console, log, QMP."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from tests.deadlines import Deadline
from tests.guest.console import Console
from tests.guest.qmp_client import QmpClient
from tools.bench.machines import QEMU_PROCESSOR
from tools.paths import GUEST, STRATOVIRT

READY = "^STRATOCELL ready$"
BASE_APPEND = "console=ttyS0 reboot=k panic=1 quiet"


@dataclass
class Disk:
    """A disk of the VM under test: an image and the words after it on the command line."""

    image: Path
    drive: str = ""
    device: str = ""


@dataclass
class Plan:
    """A lightweight VM to be started; `directory` takes its sockets and logs and must have a short path."""

    directory: Path
    memory: str = "256"
    cpus: int = 1
    disks: list[Disk] = field(default_factory=list)
    append: str = ""
    console: str = "commands"
    kernel: Path = GUEST / "vmlinuz"
    accelerator: str = "auto"
    serial: str = "stdio"
    extra: list[str] = field(default_factory=list)

    @property
    def qmp(self) -> Path:
        return self.directory / "qmp"

    def kernel_words(self) -> str:
        words = [BASE_APPEND, f"stratocell.console={self.console}"]
        if self.disks:
            words.append("root=/dev/vda rw")
        return " ".join([*words, self.append]).strip()

    def stratovirt(self) -> list[str]:
        """The command line of the program under test."""
        command = [str(STRATOVIRT), "-accel", self.accelerator, "-m", self.memory, "-smp", str(self.cpus)]
        command += ["-kernel", str(self.kernel), "-initrd", str(GUEST / "initramfs.cpio")]
        command += ["-append", self.kernel_words(), "-qmp", f"unix:{self.qmp},server,nowait", "-serial", self.serial]
        for index, disk in enumerate(self.disks):
            command += ["-drive", _joined(f"id=disk{index},file={disk.image}", disk.drive)]
            command += ["-device", _joined(f"virtio-blk-device,drive=disk{index},id=blk{index}", disk.device)]
        return command + self.extra

    def qemu(self) -> list[str]:
        """The same VM as QEMU's microvm: the reference for the harness itself, and the peer of benchmarks."""
        accelerator = "tcg" if self.accelerator in ("auto", "tcg") else self.accelerator
        command = ["qemu-system-x86_64", "-M", "microvm,acpi=on,rtc=on", "-accel", accelerator]
        command += ["-cpu", QEMU_PROCESSOR[accelerator]]
        command += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        command += ["-m", self.memory, "-smp", str(self.cpus)]
        command += ["-kernel", str(self.kernel), "-initrd", str(GUEST / "initramfs.cpio")]
        command += ["-append", self.kernel_words(), "-serial", self.serial]
        command += ["-qmp", f"unix:{self.qmp},server=on,wait=off"]
        for index, disk in enumerate(self.disks):
            command += ["-drive", f"id=disk{index},file={disk.image},if=none,format=raw"]
            command += ["-device", f"virtio-blk-device,drive=disk{index},id=blk{index}"]
        return command + self.extra


class Guest:
    """A running VM. Its serial port must be stdio for `console`; standard error goes to `directory`/stderr."""

    def __init__(self, command: list[str], plan: Plan) -> None:
        self.plan = plan
        self.command = command
        with (plan.directory / "stderr").open("wb") as errors:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.console = Console(os.dup(self.process.stdout.fileno()), os.dup(self.process.stdin.fileno()))
        self.process.stdin.close()
        self.process.stdout.close()
        self._monitor: QmpClient | None = None

    def wait_ready(self, seconds: float = 60.0) -> Guest:
        """Wait until the guest's shell takes commands."""
        self.console.wait_for(READY, seconds)
        return self

    @property
    def qmp(self) -> QmpClient:
        if self._monitor is None:
            self._monitor = QmpClient(self.plan.qmp)
        return self._monitor

    def power_off(self, seconds: float = 30.0) -> int:
        """Have the guest power itself off; returns the VM's exit status."""
        self.console.send("sync; mount -o remount,ro /; poweroff -f\n")
        return self.wait_exit(seconds)

    def wait_exit(self, seconds: float = 30.0) -> int:
        """The VM's exit status; its output is drained meanwhile."""
        deadline = Deadline(seconds)
        self.console.read_to_end(seconds)
        return self.process.wait(deadline.left() + 1.0)

    def errors(self) -> str:
        """What the program wrote to standard error (its log, unless -D)."""
        return (self.plan.directory / "stderr").read_text(errors="replace")

    def close(self) -> None:
        """End the VM the hard way if it still runs."""
        if self._monitor is not None:
            self._monitor.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.console.close()

    def __enter__(self) -> Guest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if error is not None:
            error.add_note(f"command: {' '.join(self.command)}\nstandard error:\n{self.errors()[-4000:]}")
            error.add_note(f"console:\n{self.console.text[-4000:]}")


def start(plan: Plan) -> Guest:
    """Start the program under test."""
    return Guest(plan.stratovirt(), plan)


def copy_of_root(directory: Path) -> Path:
    """A root disk that a test may write to."""
    target = directory / "root.ext4"
    shutil.copyfile(GUEST / "root.ext4", target)
    return target


def empty_disk(path: Path, size: int) -> Path:
    """A sparse image of `size` bytes."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


def _joined(*parts: str) -> str:
    return ",".join(part for part in parts if part)
