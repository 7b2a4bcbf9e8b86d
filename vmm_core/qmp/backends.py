"""Backends: what state each is in and what it may do, restart and upgrade by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from vmm_core.qmp.errors import QmpError
from vmm_core.qmp.registry import Context, Deferred, NoArguments, command
from vmm_core.supervisor import report as kernel
from vmm_core.supervisor.own import OwnGuard

if TYPE_CHECKING:
    from vmm_core.storage import Disk
    from vmm_core.supervisor.guard import Guard


class BackendName(msgspec.Struct, forbid_unknown_fields=True):
    """The backend of the device called `id`."""

    id: str


class Upgrade(msgspec.Struct, forbid_unknown_fields=True):
    """`command`: the Python of another installation, whose code is to serve; left out: this one's, as it is on disk."""

    id: str
    command: str = ""


def guard_of(context: Context, name: str) -> Guard:
    """The guard of the device called `name`; QmpError when there is none."""
    return disk_of(context, name).guard


def disk_of(context: Context, name: str) -> Disk:
    """The disk called `name`; QmpError when there is none."""
    for disk in context.vm.disks:
        if disk.name == name:
            return disk
    raise QmpError(f"there is no device '{name[:80]}' with a backend")


def report(guard: Guard) -> dict[str, Any]:
    """What is known of one backend without asking it: our own account, the kernel's, and the rings."""
    known: dict[str, Any] = {
        "id": guard.name,
        "pid": guard.pid,
        "state": guard.shown_state,
        "restarts": guard.restarts,
        "restart-policy": guard.policy.restart,
    }
    if guard.last_exit is not None:
        known["last-exit"] = guard.last_exit
    if guard.last_blackout:
        known["last-blackout"] = guard.last_blackout
    if guard.last_failure:
        known["last-failure"] = guard.last_failure
    known.update(guard.front.describe())
    if isinstance(guard, OwnGuard):
        known["sandbox"] = _sandbox(guard)
    return known


def _sandbox(guard: OwnGuard) -> dict[str, Any]:
    """What holds the process, as the kernel says; `missing`: what the host did not permit."""
    process = guard.process
    found: dict[str, Any] = {"mode": guard.policy.sandbox}
    if process is not None and process.confined:
        found |= {"missing": process.missing, "landlock": process.landlock}
    return found | (kernel.report(guard.pid) if guard.pid else {})


@command("x-query-backends")
def query_backends(context: Context, _arguments: NoArguments) -> object:
    return [report(disk.guard) for disk in context.vm.disks]


@command("x-backend-restart", BackendName)
def backend_restart(context: Context, arguments: BackendName) -> None:
    """Replace a backend, or bring back one that was given up; BACKEND_RESTARTED says when it serves."""
    guard_of(context, arguments.id).restart()


@command("x-backend-upgrade", Upgrade)
def backend_upgrade(context: Context, arguments: Upgrade) -> object:
    """Hand a device over to a new process of the code on disk; answers with the blackout in microseconds."""
    if arguments.command and not arguments.command.startswith("/"):
        raise QmpError(f"command '{arguments.command[:80]}': must be an absolute path, of an installation's Python")
    guard = guard_of(context, arguments.id)
    if not isinstance(guard, OwnGuard):
        raise QmpError(f"the backend of {guard.name} is not ours: its own manager upgrades it, and we reconnect")
    answer = Deferred()

    def done(blackout: int, reason: str) -> None:
        answer.settle(QmpError(reason) if reason else {"id": guard.name, "pid": guard.pid, "blackout": blackout})

    guard.upgrade(done, arguments.command)
    return answer
