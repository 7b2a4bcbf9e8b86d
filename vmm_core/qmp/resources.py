"""What backends use, and may use: `x-query-backend-stats`, `x-backend-set-limits` (docs/metrics.md, docs/limits.md)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from vmm_core.config.backends import BACKEND
from vmm_core.config.kinds import Invalid
from vmm_core.qmp.backends import guard_of
from vmm_core.qmp.errors import QmpError
from vmm_core.qmp.registry import Context, command
from vmm_core.storage import OwnDisk
from vmm_core.supervisor.limits import LIMITS, option, spell
from vmm_core.supervisor.process_stats import Rollup, stats

if TYPE_CHECKING:
    from vmm_core.storage import Disk
    from vmm_core.supervisor.resources import Account
    from vmm_core.vm import Vm

NO_LIMIT = "none"


class WhichBackend(msgspec.Struct, forbid_unknown_fields=True):
    """The backend of the device called `id`; all when left out."""

    id: str = ""


Spelled = Annotated[str, msgspec.Meta(min_length=1)]  # "" is what was left out


class SetLimits(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    """`id`, and limits spelled as on the command line; `none` lifts one, what is left out stays."""

    id: str
    cpu_max: Spelled = ""
    memory_max: Spelled = ""
    pids_max: Spelled = ""
    io_read_bps: Spelled = ""
    io_write_bps: Spelled = ""
    io_read_iops: Spelled = ""
    io_write_iops: Spelled = ""
    cpus: Spelled = ""
    nice: Spelled = ""


_core_rollup = Rollup()


@command("x-query-backend-stats", WhichBackend)
def query_backend_stats(context: Context, arguments: WhichBackend) -> object:
    """Guest memory is the core's: a backend's `rss-shared` and `pss-shared` are its share of looking at it."""
    vm = context.vm
    if arguments.id:
        guard_of(context, arguments.id)
    disks = [disk for disk in vm.disks if arguments.id in ("", disk.name)]
    core = stats(os.getpid()) | _core_rollup.read(os.getpid())
    return {
        "name": vm.config.name,
        "core": {"pid": os.getpid(), "process": core, "guest-memory": guest_memory(vm)},
        "backends": [_backend(vm, disk) for disk in disks],
    }


@command("x-backend-set-limits", SetLimits)
def set_limits(context: Context, arguments: SetLimits) -> object:
    """Returns what is in force afterwards, and by what."""
    guard_of(context, arguments.id)
    account = context.vm.resources.accounts.get(arguments.id)
    if account is None:
        raise QmpError(f"the backend of '{arguments.id[:80]}' is not a process of ours")
    changes = {name: _value(name, text) for name in LIMITS if (text := getattr(arguments, name))}
    account.limits.change(account.limits.policy.replace(**changes))
    return {"limits": account.limits.report()}


def guest_memory(vm: Vm) -> int:
    """Bytes of guest memory that the host has given pages to, whoever touched them first."""
    return os.fstat(vm.memory.fd).st_blocks * 512


def _backend(vm: Vm, disk: Disk) -> dict[str, Any]:
    guard = disk.guard
    found: dict[str, Any] = {
        "id": disk.name, "pid": guard.pid, "state": guard.shown_state, "restarts": guard.restarts
    }  # fmt: skip
    if isinstance(disk, OwnDisk):
        found["iops-total"] = disk.iops
    account = vm.resources.accounts.get(disk.name)
    if account is None:
        policy = vm.config.backend_policy(disk.name)
        found["limits"] = [
            {"limit": option(name), "value": spell(policy, name), "in-force": False, "by": "not a process of ours"}
            for name in LIMITS
            if getattr(policy, name) is not None
        ]
        return found
    found["process"] = _process(account, guard.pid) if guard.pid else {}
    found["queues"] = [
        {key.replace("_", "-"): value for key, value in queue.items()} for queue in account.queues.read()
    ]
    found["limits"] = account.limits.report()
    found["memory-kills"] = account.limits.memory_kills
    leaf = account.limits.leaf
    if leaf is not None:
        found["cgroups"] = leaf.paths()
        found["pressure"] = {resource: _pressure(text) for resource, text in leaf.pressure().items()}
    return found


def _process(account: Account, pid: int) -> dict[str, object]:
    if account.rollup is None:
        account.rollup = Rollup()
    return stats(pid) | account.rollup.read(pid)


def _pressure(text: str) -> dict[str, dict[str, float]]:
    """`some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, total in microseconds, and perhaps `full ...`."""
    lines = (line.split() for line in text.splitlines())
    return {
        words[0]: {key: float(value) for key, _, value in (word.partition("=") for word in words[1:])}
        for words in lines
    }


def _value(name: str, text: str) -> object:
    if text == NO_LIMIT:
        return None
    key = next(key for key in BACKEND.keys if key.name == option(name))
    try:
        return key.kind.read(text)
    except Invalid as error:
        raise QmpError(f"{option(name)}: {error}") from error
