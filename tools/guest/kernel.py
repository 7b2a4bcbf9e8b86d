"""Fetch a Debian kernel package by apt and unpack it; nothing is installed, root is not needed."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

CLOUD = "linux-image-cloud-amd64"
FULL = "linux-image-amd64"


class KernelMissing(Exception):
    """apt cannot provide the kernel; the message says which step failed."""


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel package."""

    version: str
    image: Path
    modules: Path


def fetch(package: str, directory: Path) -> Kernel:
    """Return the kernel that meta-package `package` depends on, fetching it unless `directory` has one already."""
    unpacked = directory / package
    if not list(unpacked.glob("boot/vmlinuz-*")):
        directory.mkdir(parents=True, exist_ok=True)
        archive = _download(_real_package(package), directory)
        partial = directory / f"{package}.partial"
        subprocess.run(["dpkg-deb", "-x", str(archive), str(partial)], check=True)
        partial.rename(unpacked)
        archive.unlink()
    return _describe(unpacked)


def _describe(unpacked: Path) -> Kernel:
    image = next(unpacked.glob("boot/vmlinuz-*"))
    version = image.name.removeprefix("vmlinuz-")
    return Kernel(version, image, unpacked / "lib" / "modules" / version)


def _real_package(meta: str) -> str:
    """The versioned package behind `meta`, refreshing the package lists once if apt does not know it."""
    for attempt in range(2):
        shown = subprocess.run(["apt-cache", "show", "--no-all-versions", meta], capture_output=True, text=True)
        match = re.search(r"^Depends:.*?\b(linux-image-[0-9]\S*)", shown.stdout, re.MULTILINE)
        if match:
            return match.group(1)
        if attempt == 0:
            _update_lists()
    raise KernelMissing(f"apt does not know the package {meta}: {shown.stderr.strip()}")


def _download(package: str, directory: Path) -> Path:
    # As root, apt would hand the download to its own user, who may not reach a checkout in somebody's home.
    command = ["apt-get", "-o", "APT::Sandbox::User=root", "download", package]
    for attempt in range(2):
        result = subprocess.run(command, cwd=directory, capture_output=True, text=True)
        if result.returncode == 0:
            return next(directory.glob(f"{package}_*.deb"))
        if attempt == 0:
            _update_lists()
    raise KernelMissing(f"apt-get download {package} failed: {result.stderr.strip()}")


def _update_lists() -> None:
    as_root = [] if os.getuid() == 0 else ["sudo", "-n"]
    subprocess.run([*as_root, "apt-get", "update"], stdin=subprocess.DEVNULL, check=False)
