"""Running one VM: everything in the order that lets the guest's first instruction come early, and the orderly end."""

from __future__ import annotations

import os

from vmm_core import log
from vmm_core.errors import VmmError, describe
from vmm_core.loop import EventLoop
from vmm_core.vm import Vm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm_core.chardev.base import Chardev
    from vmm_core.config.records import VmConfig


def run(config: VmConfig) -> int:
    """Run the VM that `config` describes until it ends; returns the exit status. VmmError: it could not be started."""
    loop = EventLoop()
    vm = Vm(config, loop)
    vm.boot()
    vm.start()
    loop.run()
    return vm.exit_status
