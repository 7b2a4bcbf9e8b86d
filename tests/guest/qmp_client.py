"""A small blocking QMP client with deadlines, for tests that only need a few commands."""

from __future__ import annotations

import json
import select
import socket
from pathlib import Path
from typing import Any

from tests.deadlines import Deadline


class QmpFailed(AssertionError):
    """The command got an error."""

    def __init__(self, error: dict[str, str]) -> None:
        super().__init__(f"{error['class']}: {error['desc']}")
        self.error = error


class QmpClient:
    """Connects, reads the greeting and negotiates."""

    def __init__(self, path: Path, seconds: float = 20.0) -> None:
        self._pending = b""
        self.events: list[dict[str, Any]] = []
        self._socket = _connect(path, Deadline(seconds))
        self.greeting = self._message(Deadline(seconds))
        self.execute("qmp_capabilities")

    def execute(self, name: str, seconds: float = 20.0, **arguments: object) -> Any:
        """Returns the command's value; QmpFailed carries its error."""
        request: dict[str, object] = {"execute": name}
        if arguments:
            request["arguments"] = {key.replace("_", "-"): value for key, value in arguments.items()}
        self._socket.sendall(json.dumps(request).encode() + b"\r\n")
        deadline = Deadline(seconds)
        while True:
            message = self._message(deadline)
            if "event" in message:
                self.events.append(message)
            elif "error" in message:
                raise QmpFailed(message["error"])
            else:
                return message["return"]

    def wait_event(self, name: str, seconds: float = 20.0) -> dict[str, Any]:
        """The next event `name`, which may have come already."""
        deadline = Deadline(seconds)
        while True:
            for index, event in enumerate(self.events):
                if event["event"] == name:
                    del self.events[: index + 1]
                    return event
            self.events.append(self._message(deadline))

    def close(self) -> None:
        self._socket.close()

    def _message(self, deadline: Deadline) -> dict[str, Any]:
        while b"\n" not in self._pending:
            ready, _, _ = select.select([self._socket], [], [], deadline.left())
            assert ready, f"QMP said nothing for {deadline.seconds:g} s"
            data = self._socket.recv(65536)
            assert data, f"QMP closed the connection after {self._pending!r}"
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message


def _connect(path: Path, deadline: Deadline) -> socket.socket:
    """The socket appears early in the VM's start; until then there is nothing to wait on but its directory."""
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path))
            return connection
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            assert deadline.left() > 0, f"no QMP socket {path} within {deadline.seconds:g} s"
            select.select([], [], [], 0.01)
