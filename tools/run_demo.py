"""`make run`: boot the documented example. In a terminal it is yours; without one a fixed script runs in the guest."""

from __future__ import annotations

import argparse
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tools.paths import BUILD, GUEST, STRATOVIRT

TIME_LIMIT = 180.0  # seconds for the whole script; ordinary KVM needs 2, the software CPU 5
MARK = b"STRATOCELL demo status "
UNIX_PATH_LIMIT = 100


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--script", action="store_true", help="run the fixed script even with a terminal")
    parser.add_argument("--time-limit", type=float, default=TIME_LIMIT, metavar="SECONDS")
    parser.add_argument("extra", nargs="*", help="further stratovirt options, after --")
    arguments = parser.parse_args()
    interactive = sys.stdin.isatty() and sys.stdout.isatty() and not arguments.script
    with tempfile.TemporaryDirectory(prefix="stratocell-") as scratch:
        command = command_line(own_disk(), qmp_path(Path(scratch)), interactive, arguments.extra)
        print(printable(command), flush=True)
        return run_interactive(command) if interactive else run_script(command, arguments.time_limit)


def own_disk() -> Path:
    """The disk that `make run` keeps between runs: a copy of the built one, made anew when that is newer."""
    built, own = GUEST / "root.ext4", BUILD / "run" / "root.ext4"
    if not own.exists() or own.stat().st_mtime < built.stat().st_mtime:
        own.parent.mkdir(parents=True, exist_ok=True)
        partial = own.with_suffix(".partial")
        shutil.copyfile(built, partial)
        partial.rename(own)
    return own


def qmp_path(scratch: Path) -> Path:
    stable = BUILD / "run" / "qmp.socket"
    return stable if len(str(stable)) < UNIX_PATH_LIMIT else scratch / "qmp.socket"


def command_line(disk: Path, qmp: Path, interactive: bool, extra: list[str]) -> list[str]:
    """The lightweight VM of the user's document; Debian's kernel has its disk driver as a module, so an initrd too."""
    append = "console=ttyS0 root=/dev/vda rw reboot=k panic=1 quiet"
    if not interactive:
        append += " stratocell.console=script"
    return [
        str(STRATOVIRT),
        *("-kernel", str(GUEST / "vmlinuz")),
        *("-initrd", str(GUEST / "initramfs.cpio")),
        *("-append", append),
        *("-drive", f"file={disk},id=rootfs,readonly=false"),
        *("-device", "virtio-blk-device,drive=rootfs"),
        *("-qmp", f"unix:{qmp},server,nowait"),
        *("-serial", "stdio"),
        *extra,
    ]  # fmt: skip


def printable(command: list[str]) -> str:
    """The command as one would type it: one option to a line."""
    lines = [shlex.quote(command[0])]
    for word in command[1:]:
        if word.startswith("-"):
            lines.append(f"    {word}")
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return " \\\n".join(lines)


def run_interactive(command: list[str]) -> int:
    # Keys reach the guest through the raw terminal; an interrupt from elsewhere is the VM's to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return subprocess.run(command, check=False).returncode


def run_script(command: list[str], limit: float) -> int:
    """Show what the guest says; 0 when its script succeeded and the VM ended well."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        said = _relay(process, began + limit)
        status = process.wait(max(0.0, began + limit - time.monotonic()))
    except (TimeoutError, subprocess.TimeoutExpired):
        process.kill()
        process.wait()
        print(f"the guest did not finish within {limit:g} s", file=sys.stderr)
        return 1
    worked = MARK + b"0" in said
    took = time.monotonic() - began
    print(f"the guest's script {'worked' if worked else 'failed'}; stratovirt exited with {status} after {took:.1f} s")
    return 0 if worked and status == 0 else 1


def _relay(process: subprocess.Popen[bytes], deadline: float) -> bytes:
    assert process.stdout is not None
    descriptor, said = process.stdout.fileno(), b""
    while True:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError
        data = os.read(descriptor, 65536)
        if not data:
            return said
        said += data
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
