"""The vhost-user server of a backend process: one front-end at a time, control only; rings run on the device's threads.

Two ways in: `serve_connection` with a connected socket (given by whoever started the process), and `serve_listener`
with a listening one, which takes the next front-end when one is gone (reconnection).
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from typing import TYPE_CHECKING

from backends.runtime.session import Session
from ipc.connection import Connection
from ipc.errors import PeerClosed, WireError

if TYPE_CHECKING:
    from collections.abc import Callable

    from backends.runtime.control import ControlEnd
    from backends.runtime.device import Device

MESSAGE_TIMEOUT = 10.0  # seconds from a message's first byte to its last
NO_DESCRIPTORS_PAUSE = 0.1  # seconds before trying to accept again


class Server:
    """Drives `device` for front-ends, and carries out what `control` is told between two of their messages.

    `stop` may be called from a signal handler or another thread.
    """

    def __init__(
        self, device: Device, log: Callable[[str], None] | None = None, control: ControlEnd | None = None
    ) -> None:
        self._device = device
        self._log = log or self._log_to_stderr
        self._control = control
        self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stopping = False
        self._connection: Connection | None = None

    def stop(self) -> None:
        """End the session and the serving, soon."""
        self._stopping = True
        os.eventfd_write(self._stop_fd, 1)
        if self._connection is not None:
            self._connection.shutdown()

    def descriptors(self) -> list[int]:
        """What it needs beside its socket."""
        return [self._stop_fd]

    def close(self) -> None:
        """Free the server itself; the device is its owner's."""
        os.close(self._stop_fd)

    def serve_listener(self, fd: int) -> None:
        """Serve front-ends that connect to `fd`, one by one, until `stop`: listens, does not block, is taken over."""
        listener = socket.socket(fileno=fd)
        try:
            while self._wait(listener.fileno()):
                connected = self._accept(listener)
                if connected >= 0:
                    self.serve_connection(connected)
        finally:
            listener.close()

    def serve_connection(self, fd: int) -> None:
        """Serve the front-end connected to `fd` (taken over) until it is gone, breaks the protocol, or `stop`."""
        connection = Connection(fd)
        self._connection = connection
        session = Session(self._device, connection, self._log)
        try:
            while self._wait(connection.fileno()):
                session.handle(connection.receive(MESSAGE_TIMEOUT))
        except PeerClosed:
            pass
        except WireError as error:
            if not self._stopping:
                self._log(f"session ended: {error}")
        except Exception as error:  # a defect here must not cost the next front-end its device
            self._log(f"session ended by {type(error).__name__}: {error}")
        finally:
            self._connection = None
            connection.close()
            session.close()

    def _wait(self, fd: int) -> bool:
        """Wait until `fd` is readable; False when it is time to stop."""
        while True:
            poller = select.poll()
            poller.register(fd, select.POLLIN)
            poller.register(self._stop_fd, select.POLLIN)
            control = self._control.fileno() if self._control is not None else -1
            if control >= 0:
                poller.register(control, select.POLLIN)
            ready = [number for number, _events in poller.poll()]
            if self._control is None or control not in ready:
                return not self._stopping
            self._control.serve()

    def _accept(self, listener: socket.socket) -> int:
        try:
            connected, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return -1
        except OSError as error:
            self._log(f"cannot accept a front-end: {error.strerror}")
            time.sleep(NO_DESCRIPTORS_PAUSE)
            return -1
        return connected.detach()

    def _log_to_stderr(self, line: str) -> None:
        print(f"{self._device.name}: {line}", file=sys.stderr, flush=True)
