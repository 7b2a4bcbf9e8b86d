"""What the rig boots: Debian's full kernel (the cloud one has no 9p), unpacked, and an initramfs with its modules."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from tools.guest.initramfs import build_with
from tools.guest.kernel import FULL, fetch
from tools.guest.vmlinux import extract
from tools.paths import BUILD

RIG = BUILD / "rig"
INIT = Path(__file__).parent / "rig-init.sh"
MODULES = [
    *("virtio_pci", "virtio_blk", "9p", "9pnet_virtio", "overlay", "crc32c_generic", "ext4"),
    *("kvm_amd", "tun", "tap", "vhost_net", "vhost_vsock"),
]  # fmt: skip


@dataclass(frozen=True)
class Artefacts:
    kernel: Path
    initramfs: Path


def prepare() -> Artefacts:
    """Fetch and build what is not there, or older than its recipe."""
    kernel = fetch(FULL, RIG / "packages")
    artefacts = Artefacts(RIG / "vmlinux", RIG / "initramfs.cpio")
    if not artefacts.kernel.exists():
        _write(artefacts.kernel, extract(kernel.image))
    stamp, recipe = RIG / "initramfs.stamp", _recipe(kernel.version)
    if not (artefacts.initramfs.exists() and stamp.exists() and stamp.read_text() == recipe):
        _write(artefacts.initramfs, build_with(kernel, MODULES, INIT))
        stamp.write_text(recipe)
    return artefacts


def _recipe(version: str) -> str:
    return hashlib.sha256("\0".join([version, *MODULES, INIT.read_text()]).encode()).hexdigest()


def _write(path: Path, data: bytes) -> None:
    partial = path.with_suffix(".partial")
    partial.write_bytes(data)
    partial.rename(path)
