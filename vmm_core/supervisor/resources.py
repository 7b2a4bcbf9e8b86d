"""What a VM's backends use and may use: an account for each device, kept over restarts of its process."""

from __future__ import annotations

import os

from vmm_core.supervisor.cgroups import Cgroups
from vmm_core.supervisor.limits import Limits
from vmm_core.supervisor.queue_stats import QueueStats

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm_core.supervisor.backend import BackendProcess
    from vmm_core.supervisor.process_stats import Rollup
    from vmm_core.vm import Vm


class Account:
    """One device's counters and limits."""

    def __init__(self, vm: Vm, name: str, queue_sizes: tuple[int, ...], image: int, cgroups: Cgroups) -> None:
        self.name = name
        self.queues = QueueStats(name, queue_sizes)
        memory = vm.config.memory
        charged = memory.path is None and not memory.prealloc  # else guest memory is the core's, or of no group
        self.limits = Limits(
            name,
            vm.config.backend_policy(name),
            vm.loop,
            cgroups,
            shared=memory.size if charged else 0,
            disk=lambda: disk_below(image),
        )
        self.process: BackendProcess | None = None
        self.rollup: Rollup | None = None

    def fds(self) -> dict[str, int]:
        """Descriptors that each of the device's processes is started with; they stay ours."""
        return {"stats": self.queues.fd}

    def adopt(self, process: BackendProcess) -> BackendProcess:
        """From now on this process serves the device: limit and watch it as soon as it runs."""
        self.process = process
        process.on_started = self.limits.started
        process.on_confined = self.limits.confined
        return process

    def close(self) -> None:
        self.limits.close()
        self.queues.close()


class Resources:
    """All accounts of a VM, and its control groups. `close` when every backend has ended."""

    def __init__(self, vm: Vm) -> None:
        self.cgroups = Cgroups(vm.vcpus.thread_ids)
        self.accounts: dict[str, Account] = {}
        self._vm = vm

    def account(self, name: str, queue_sizes: tuple[int, ...], image: int) -> Account:
        """The account of a device, opened when first asked for. `image` is its disk image's descriptor, or -1."""
        if name not in self.accounts:
            self.accounts[name] = Account(self._vm, name, queue_sizes, image, self.cgroups)
        return self.accounts[name]

    def drop(self, name: str) -> None:
        """The device was unplugged."""
        account = self.accounts.pop(name, None)
        if account is not None:
            account.close()
            if account.limits.leaf is not None:
                account.limits.leaf.remove()

    def close(self) -> None:
        for account in self.accounts.values():
            account.close()
        self.accounts = {}
        self.cgroups.close()


def disk_below(image: int) -> str:
    """MAJOR:MINOR of the whole disk that an open image lies on or is; "" when the host has no such disk."""
    import stat

    try:
        status = os.fstat(image)
    except OSError:
        return ""
    device = status.st_rdev if stat.S_ISBLK(status.st_mode) else status.st_dev
    place = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"
    if not os.path.exists(place):
        return ""
    if os.path.exists(f"{place}/partition"):
        place = os.path.join(os.path.realpath(place), "..")
    with open(f"{place}/dev", encoding="ascii") as file:
        return file.read().strip()
