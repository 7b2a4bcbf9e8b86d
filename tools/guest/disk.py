"""The ext4 root disk: made from a directory by mke2fs, without root and without mounting anything."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import tempfile
from pathlib import Path

from tools.guest.initramfs import BUSYBOX, applets
from tools.guest.tiny_programs import COUNT, program

HERE = Path(__file__).parent
SIZE = "96M"
UUID = "5c0ffee0-0000-4000-8000-57ca70ce1100"
DIRECTORIES = "bin sbin dev etc proc sys tmp run root mnt usr/bin usr/lib/stratocell/programs usr/share/stratocell"
DATA_FILES, DATA_BYTES = 4, 1 << 20
TOOL_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def build(target: Path) -> None:
    """Write the image to `target`, replacing it only when complete."""
    with tempfile.TemporaryDirectory(prefix="root-", dir=target.parent) as name:
        tree = Path(name) / "tree"
        _populate(tree)
        image = Path(name) / "image"
        _make_file_system(tree, image)
        image.rename(target)


def _populate(tree: Path) -> None:
    for directory in DIRECTORIES.split():
        (tree / directory).mkdir(parents=True, exist_ok=True)
    shutil.copy(BUSYBOX, tree / "bin" / "busybox")
    for applet in applets():
        (tree / "bin" / applet).symlink_to("busybox")
    _install(HERE / "root-init.sh", tree / "sbin" / "init")
    _install(HERE / "demo.sh", tree / "usr/lib/stratocell/demo.sh")
    (tree / "etc" / "passwd").write_text("root::0:0:root:/root:/bin/sh\n")
    (tree / "etc" / "group").write_text("root:x:0:\n")
    _compile(HERE / "blkverify.c", tree / "usr/bin/blkverify")
    for number in range(1, COUNT + 1):
        path = tree / "usr/lib/stratocell/programs" / str(number)
        path.write_bytes(program(number))
        path.chmod(0o755)
    _write_data(tree / "usr/share/stratocell")


def _install(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    target.chmod(0o755)


def _compile(source: Path, target: Path) -> None:
    compiler = os.environ.get("CC", "gcc")
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-pthread", "-s"]
    subprocess.run([compiler, *flags, "-o", str(target), str(source)], check=True)


def _write_data(directory: Path) -> None:
    """Files of the same bytes on every machine, and the checksums that the guest verifies them by."""
    sums = []
    for index in range(DATA_FILES):
        data = random.Random(index).randbytes(DATA_BYTES)
        (directory / f"data{index}").write_bytes(data)
        sums.append(f"{hashlib.sha256(data).hexdigest()}  data{index}\n")
    (directory / "SHA256SUMS").write_text("".join(sums))


def _make_file_system(tree: Path, image: Path) -> None:
    extended = f"hash_seed={UUID},root_owner=0:0,lazy_itable_init=1"
    options = ["-q", "-F", "-t", "ext4", "-L", "root", "-U", UUID, "-E", extended]
    environment = {**os.environ, "PATH": TOOL_PATH}
    subprocess.run(["mke2fs", *options, "-d", str(tree), str(image), SIZE], check=True, env=environment)
