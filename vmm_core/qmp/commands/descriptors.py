"""Descriptors handed over by the client."""

from __future__ import annotations

import os
from typing import Annotated

import msgspec

from vmm_core.qmp.errors import QmpError
from vmm_core.qmp.registry import Context, command

MAX_NAMED = 64
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


class GetFd(msgspec.Struct, forbid_unknown_fields=True):
    """`fdname`: 1 to 255 characters."""

    fdname: Name


@command("getfd", GetFd)
def getfd(context: Context, arguments: GetFd) -> None:
    """Keep the descriptor that came with this command under a name; it replaces one of the same name."""
    named = context.vm.named_fds
    if arguments.fdname not in named and len(named) >= MAX_NAMED:
        raise QmpError(f"no more than {MAX_NAMED} descriptors can be kept")
    fd = context.client.take_fd()
    old = named.pop(arguments.fdname, -1)
    if old >= 0:
        os.close(old)
    named[arguments.fdname] = fd
