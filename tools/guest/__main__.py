"""`python -m tools.guest`: build the guest in build/guest: vmlinuz, initramfs.cpio, root.ext4."""

from __future__ import annotations

import shutil
import sys

from tools.guest import disk, initramfs
from tools.guest.kernel import CLOUD, KernelMissing, fetch
from tools.paths import GUEST


def main() -> int:
    try:
        kernel = fetch(CLOUD, GUEST / "packages")
    except KernelMissing as missing:
        print(missing, file=sys.stderr)
        return 1
    (GUEST / "initramfs.cpio").write_bytes(initramfs.build(kernel))
    disk.build(GUEST / "root.ext4")
    shutil.copyfile(kernel.image, GUEST / "vmlinuz")
    (GUEST / "version").write_text(kernel.version + "\n")
    print(f"Debian's kernel {kernel.version} in {GUEST}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
