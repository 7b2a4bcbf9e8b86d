"""The initramfs: busybox, the kernel's virtio modules, and an init that switches to the root disk."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tools.guest.cpio import Archive
from tools.guest.kernel import Kernel
from tools.guest.modules import ModuleTree

MODULES = ["virtio_mmio", "virtio_pci", "virtio_blk"]
INIT = Path(__file__).parent / "initramfs-init.sh"
BUSYBOX = Path("/bin/busybox")


def build(kernel: Kernel) -> bytes:
    """Return the archive, uncompressed: a guest unpacks that fastest, above all on a software CPU."""
    return build_with(kernel, MODULES, INIT)


def build_with(kernel: Kernel, wanted: list[str], init: Path) -> bytes:
    """An archive with the modules `wanted` in /modules, their order in /modules/order, and `init` as /init."""
    tree = ModuleTree(kernel.modules)
    order = tree.load_order(wanted)
    archive = Archive()
    for name in ("bin", "dev", "proc", "sys", "newroot", "modules"):
        archive.directory(name)
    archive.file("bin/busybox", BUSYBOX.read_bytes(), 0o755)
    for applet in applets():
        archive.symlink(f"bin/{applet}", "busybox")
    for name in order:
        archive.file(f"modules/{name}.ko", tree.path(name).read_bytes())
    archive.file("modules/order", ("\n".join(order) + "\n").encode())
    archive.file("init", init.read_bytes(), 0o755)
    return archive.finish()


def applets() -> list[str]:
    """The programs that busybox is, without itself."""
    listed = subprocess.run([os.fspath(BUSYBOX), "--list"], capture_output=True, text=True, check=True).stdout.split()
    return [name for name in listed if name != "busybox"]
