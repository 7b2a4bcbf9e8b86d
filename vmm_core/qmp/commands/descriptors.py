"""Descriptors handed over by the client."""

from __future__ import annotations

import os

import msgspec

from vmm_core.qmp.registry import Context, command


class GetFd(msgspec.Struct, forbid_unknown_fields=True):
    fdname: str


@command("getfd", GetFd)
def getfd(context: Context, arguments: GetFd) -> None:
    """Keep the descriptor that came with this command under a name; a name used again replaces and closes the old one."""
    fd = context.client.take_fd()
    old = context.vm.named_fds.pop(arguments.fdname, -1)
    if old >= 0:
        os.close(old)
    context.vm.named_fds[arguments.fdname] = fd
