"""What holds the processes that are not backends: the core itself, zygote, keeper and spawner (docs/sandbox.md)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vmm_core.qmp.registry import Context, NoArguments, command
from vmm_core.supervisor.report import report

if TYPE_CHECKING:
    from vmm_core.vm import Vm


@command("x-query-sandbox")
def query_sandbox(context: Context, _arguments: NoArguments) -> object:
    """For each process that runs `name`, `pid`, and what the kernel says of it, as in x-query-backends."""
    return [{"name": name, "pid": pid} | report(pid) for name, pid in processes(context.vm) if pid]


def processes(vm: Vm) -> list[tuple[str, int]]:
    spawner = vm.spawner
    found = [("core", os.getpid())]
    if spawner is not None:
        found += [("zygote", spawner.zygote_pid), ("keeper", spawner.keeper_pid), ("spawner", spawner.pid)]
    return found
