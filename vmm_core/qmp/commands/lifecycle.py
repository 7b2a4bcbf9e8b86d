"""Running, pausing and ending the VM."""

from __future__ import annotations

import msgspec

from vmm_core.qmp.registry import Context, NoArguments, command


class Capabilities(msgspec.Struct, forbid_unknown_fields=True):
    """`enable` names capabilities of the greeting; there are none."""

    enable: list[str] = []


@command("qmp_capabilities", Capabilities)
def qmp_capabilities(_context: Context, _arguments: Capabilities) -> None:
    """Leave negotiation. Commands are accepted before it too, as StratoVirt does."""


@command("query-status")
def query_status(context: Context, _arguments: NoArguments) -> object:
    paused = context.vm.paused
    return {"running": not paused, "singlestep": False, "status": "paused" if paused else "running"}


@command("stop")
def stop(context: Context, _arguments: NoArguments) -> None:
    context.vm.pause()


@command("cont")
def cont(context: Context, _arguments: NoArguments) -> None:
    context.vm.resume()


@command("system_powerdown")
def system_powerdown(context: Context, _arguments: NoArguments) -> None:
    context.vm.power_down()


@command("system_reset")
def system_reset(context: Context, _arguments: NoArguments) -> None:
    context.vm.reset()


@command("quit")
def quit_vm(context: Context, _arguments: NoArguments) -> None:
    """The answer goes out first, then the SHUTDOWN event."""
    context.vm.request_shutdown("host-qmp-quit", guest=False)
