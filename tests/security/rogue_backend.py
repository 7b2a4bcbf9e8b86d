"""A backend that breaks the rules of its control channel as its option `offence` says, once a byte comes on `vhost`."""

from __future__ import annotations

import os
import socket

import msgpack

from backends.runtime import sandbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ipc.spawn import Message


def serve(fds: dict[str, int], options: Message) -> None:
    """The entry point that the spawner calls."""
    control = socket.socket(fileno=fds["control"])
    sandbox.seal()
    os.write(fds["vhost"], b"ready\n")
    while os.read(fds["vhost"], 1):
        commit(str(options["offence"]), control)


def commit(offence: str, control: socket.socket) -> None:
    if offence == "flood":
        while True:
            control.sendmsg([msgpack.packb({"id": 1})])
    elif offence == "malformed":
        control.sendmsg([b"\xdf\xff\xff\xff\xff"])
    elif offence == "descriptor":
        control.sendmsg([msgpack.packb({"id": 1})], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, bytes(4))])
    elif offence == "deaf":
        control.close()
