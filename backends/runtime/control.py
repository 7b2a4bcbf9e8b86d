"""A backend's end of the control bus (`ipc/control.py`): commands of the core, one at a time, each answered."""

from __future__ import annotations

import os
from _socket import socket
from typing import TYPE_CHECKING

from backends.runtime.device import DeviceError
from ipc import control
from ipc.errors import WireError

if TYPE_CHECKING:
    from backends.runtime.device import Device
    from ipc.control import Message

MAX_REASON = 200  # characters of an error


class ControlEnd:
    """Takes `fd` over. Made before the sandbox is sealed, served by the thread that serves vhost-user."""

    def __init__(self, fd: int, device: Device) -> None:
        self._socket = socket(fileno=fd)
        self._device = device

    def fileno(self) -> int:
        """Readable when `serve` has something to do; -1 when there will be nothing more."""
        return self._socket.fileno()

    def close(self) -> None:
        """Idempotent, and not to be left to Python: it would ask whose socket it was, which the filter punishes."""
        self._socket.close()

    def serve(self) -> None:
        """Carry out one command. A core that breaks the rules, or is gone, is heard no more: the device works on."""
        try:
            message = control.receive(self._socket)
            if message is not None:
                control.send(self._socket, self._perform(message))
        except (WireError, ValueError):
            self.close()

    def _perform(self, message: Message) -> Message:
        identity, name = message.pop("id", None), message.pop("command", None)
        if type(identity) is not int or not isinstance(name, str):
            raise WireError("not a command")
        try:
            return {"id": identity, **self._device.command(name, message)}
        except DeviceError as error:
            return {"id": identity, "error": str(error)[:MAX_REASON]}
        except OSError as error:
            return {"id": identity, "error": error.strerror or os.strerror(error.errno or 0)}
