"""`python -m backends.blk`: the block backend alone, for any vhost-user front-end."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from backends.blk.device import ENGINES, BlkDevice
from backends.blk.lock import lock_image
from backends.runtime import sandbox
from backends.runtime.program import Program
from ipc.confine import seccomp
from ipc.confine.policy import PolicyError

if TYPE_CHECKING:
    import argparse
    from typing import NoReturn

    from backends.runtime.device import Device

POLICY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "standalone.policy")


class BlkProgram(Program):
    type = "block"
    features = ("read-only", "blk-file")
    description = "virtio-blk over vhost-user: serves one disk image."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--blk-file", required=True, metavar="FILE", help="the image: a file or a block device")
        parser.add_argument("--read-only", action="store_true", help="never write to the image")
        parser.add_argument("--direct", action="store_true", help="bypass the page cache (O_DIRECT)")
        parser.add_argument("--aio", choices=ENGINES, default="io_uring", help="how I/O is done (default: %(default)s)")
        parser.add_argument("--discard", action="store_true", help="let the driver give blocks back")
        parser.add_argument("--detect-zeroes", choices=("off", "on", "unmap"), default="off")
        parser.add_argument("--num-queues", type=int, default=1, metavar="N", help="1 to 32 (default: %(default)s)")
        parser.add_argument("--queue-size", type=int, default=256, metavar="N", help="2 to 1024 (default: %(default)s)")
        parser.add_argument("--serial", default="", help="what the guest reads as the disk's serial number")
        parser.add_argument("--disable-seccomp", action="store_true", help="lift the system call filter, nothing else")
        parser.add_argument("--iops", type=int, default=0, help="reads and writes per second, 0: no limit")

    def open_device(self, options: argparse.Namespace) -> Device:
        flags = os.O_RDONLY if options.read_only else os.O_RDWR
        fd = os.open(options.blk_file, flags | os.O_CLOEXEC | (os.O_DIRECT if options.direct else 0))
        lock_image(fd, options.blk_file, exclusive=not options.read_only)
        return BlkDevice(fd, vars(options))

    def confine(self, options: argparse.Namespace, device: Device, fds: list[int]) -> None:
        """The sandbox of a disk of the VM, as far as this machine permits; threads and rings are made within it."""
        assert isinstance(device, BlkDevice)
        policy = None if options.disable_seccomp else seccomp.compile_policy(POLICY)
        sandbox.prepare_filter(policy)
        missing = sandbox.confine([*fds, *device.descriptors()])
        if missing:
            print(f"blk: sandbox without {'; '.join(missing)}", file=sys.stderr, flush=True)
        device.start()
        sandbox.seal()


def main() -> NoReturn:
    """Run the program with the process's arguments, and end the process."""
    try:
        status = BlkProgram().run()
    except (sandbox.SandboxError, PolicyError) as error:
        print(f"block: {error}", file=sys.stderr)
        status = 1
    sys.stdout.flush()
    os._exit(status)  # an interpreter that ends in order changes signals' actions, which the filter forbids


if __name__ == "__main__":
    main()
