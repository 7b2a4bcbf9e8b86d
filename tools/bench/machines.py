"""The VMs that are compared: the same memory, disk and monitor in stratovirt and in QEMU's microvm."""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tools.bench import tiny_kernel
from tools.paths import GUEST, STRATOVIRT

SCALE = float(os.environ.get("STRATOCELL_TIME_SCALE", "1"))

MEMORY = 128  # MiB
LIMIT, PEER_LIMIT, PEER_ATTEMPTS = 20.0 * SCALE, 8.0 * SCALE, 6
# With arch-capabilities QEMU 7.2 sets an Intel register on AMD too, and aborts where KVM does not have it.
QEMU_PROCESSOR = {"tcg": "max,-la57", "kvm": "host,-arch-capabilities"}
APPEND = "console=ttyS0 root=/dev/vda rw reboot=k panic=1 quiet"


class PeerHung(Exception):
    """QEMU did not boot in any of its attempts: there is nothing to compare with."""


@dataclass(frozen=True)
class Machines:
    """Command lines of one VM on `accelerator` in both programs; `directory` takes sockets and images."""

    directory: Path
    accelerator: str

    def ours(self, kernel: list[str]) -> list[str]:
        disk, qmp = self._disk("ours"), self.directory / "ours.qmp"
        return [
            *(str(STRATOVIRT), "-accel", self.accelerator, "-m", str(MEMORY), *kernel),
            *("-drive", f"file={disk},id=rootfs,readonly=false,direct=off,aio=io_uring"),
            *("-device", "virtio-blk-device,drive=rootfs", "-qmp", f"unix:{qmp},server,nowait", "-serial", "stdio"),
        ]  # fmt: skip

    def qemu(self, kernel: list[str]) -> list[str]:
        disk, qmp = self._disk("qemu"), self.directory / "qemu.qmp"
        return [
            *("qemu-system-x86_64", "-M", "microvm,acpi=on,rtc=on,memory-backend=ram", "-accel", self.accelerator),
            *("-object", f"memory-backend-memfd,id=ram,size={MEMORY}M,share=on", "-m", f"{MEMORY}M"),
            *("-cpu", QEMU_PROCESSOR[self.accelerator]),
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", *kernel),
            *("-drive", f"file={disk},id=rootfs,if=none,format=raw,aio=io_uring"),
            *("-device", "virtio-blk-device,drive=rootfs", "-qmp", f"unix:{qmp},server=on,wait=off"),
            *("-serial", "stdio"),
        ]  # fmt: skip

    def tiny(self) -> tuple[list[str], list[str]]:
        """The same tiny kernel in both, entered directly by ours and behind QEMU's firmware."""
        path = self.directory / "tiny.elf"
        path.write_bytes(tiny_kernel.kernel())
        return self.ours(["-kernel", str(path)]), self.qemu(["-kernel", str(path)])

    def tiny_firmware(self) -> list[str]:
        """QEMU's fastest way to any guest code at all: firmware that is nothing but our few instructions."""
        path = self.directory / "tiny.rom"
        path.write_bytes(tiny_kernel.firmware())
        return self.qemu(["-bios", str(path)])

    def linux(self, console: str, words: str = "") -> tuple[list[str], list[str]]:
        """Debian's kernel in both."""
        append = f"{APPEND} stratocell.console={console} {words}".strip()
        kernel = ["-kernel", str(GUEST / "vmlinuz"), "-initrd", str(GUEST / "initramfs.cpio"), "-append", append]
        return self.ours(kernel), self.qemu(kernel)

    def _disk(self, name: str) -> Path:
        path = self.directory / f"{name}.ext4"
        if not path.exists():
            shutil.copyfile(GUEST / "root.ext4", path)
        return path


class Started:
    """A started VM; `wait_for` tells how long after exec its console said something."""

    def __init__(self, command: list[str]) -> None:
        self._began = time.perf_counter()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._said = b""

    def wait_for(self, mark: bytes, limit: float) -> float:
        """Seconds from exec until `mark` came; RuntimeError with what a VM that ended said instead, or TimeoutError."""
        assert self.process.stdout is not None
        self._find(re.escape(mark), self._began + limit)
        return time.perf_counter() - self._began

    def type(self, text: str) -> None:
        """Say something to the guest's shell; what it has said until now is forgotten."""
        assert self.process.stdin is not None
        self._said = b""
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def answer(self, pattern: bytes, seconds: float) -> re.Match[bytes]:
        """What the guest says to that within so many seconds, else TimeoutError; RuntimeError when the VM ends."""
        return self._find(pattern, time.perf_counter() + seconds)

    def _find(self, pattern: bytes, end: float) -> re.Match[bytes]:
        assert self.process.stdout is not None
        while not (found := re.search(pattern, self._said)):
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, end - time.perf_counter()))
            if not ready:
                raise TimeoutError(f"no {pattern.decode()!r} in time from {self.process.args!r}")
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                raise RuntimeError(f"no {pattern.decode()!r} from {self.process.args!r}: {self._complaint()}")
            self._said += data
        return found

    def _complaint(self) -> str:
        self.close()
        assert self.process.stderr is not None
        return (self._said + self.process.stderr.read()).decode(errors="replace")[-2000:]

    def close(self) -> None:
        """Kill it; its backends, which hold its disks, end by themselves."""
        family = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        self.process.kill()
        self.process.wait()
        psutil.wait_procs(family, LIMIT)


def time_until(command: list[str], mark: bytes, limit: float = LIMIT) -> float:
    """Milliseconds from exec until the VM's console says `mark`; the VM is then killed."""
    started = Started(command)
    try:
        return started.wait_for(mark, limit) * 1000
    finally:
        started.close()


def peer_time_until(command: list[str], mark: bytes) -> float:
    """The same for QEMU: a boot that hung does not count."""
    return patiently(lambda: time_until(command, mark, PEER_LIMIT), mark)


def patiently(measure: Callable[[], float], mark: bytes) -> float:
    """What `measure` finds with QEMU's microvm, which hangs at times on a busy machine; PeerHung when it always does.

    Its guest has neither HPET nor PM timer, and without either Linux stops when it cannot calibrate by the PIT.
    """
    for _ in range(PEER_ATTEMPTS):
        with suppress(TimeoutError):
            return measure()
    raise PeerHung(f"QEMU's microvm did not come to {mark.decode()!r} in {PEER_ATTEMPTS} attempts")
