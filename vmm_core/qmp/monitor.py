"""QMP listeners: greeting, one client at a time each, events to all (facts 2.1).

Commands and what they are read and written with are imported when the first client comes: they are half of the memory
of a core, and many a VM never has one.
"""

from __future__ import annotations

import time

from vmm_core import log
from vmm_core.loop import READ
from vmm_core.sockets import RETRY_SECONDS, accept, remove_socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    import socket
    from typing import Any

    from vmm_core.config.records import MonitorConfig
    from vmm_core.qmp.client import Client
    from vmm_core.vm import Vm

MAX_PENDING = 50  # events kept while nobody is connected; the oldest go first


class Monitor:
    """Serves `listener`, which is bound already; further clients wait in its backlog."""

    def __init__(self, config: MonitorConfig, listener: _socket.socket, vm: Vm) -> None:
        self._config = config
        self._listener = listener
        self._vm = vm
        self._client: Client | None = None
        self._pending: list[dict[str, Any]] = []
        vm.subscribe(self._event)
        self._listen()

    def close(self) -> None:
        """Disconnect the client and remove the socket."""
        if self._client is not None:
            self._client.close()
        self._vm.loop.remove(self._listener.fileno())
        self._listener.close()
        if self._config.path:
            remove_socket(self._config.path)

    def _accept(self, _events: int) -> None:
        try:
            listener = self._prepare()
        except (OSError, ImportError) as error:  # no descriptor is free to read the modules with
            log.warn(f"QMP: no client can be served now: {error}")
            self._vm.loop.remove(self._listener.fileno())
            self._vm.loop.call_later(RETRY_SECONDS, self._listen)
            return
        sock = accept(listener, self._vm.loop, self._listen)
        if sock is None:
            return
        from vmm_core.qmp.client import Client
        from vmm_core.qmp.version import VERSION

        self._vm.loop.remove(listener.fileno())
        self._client = Client(sock, self._vm, self._client_gone)
        self._client.send({"QMP": {"version": VERSION, "capabilities": []}})
        pending, self._pending = self._pending, []
        for event in pending:
            if self._client is not None:
                self._client.send(event)

    def _prepare(self) -> socket.socket:
        """Import what serving takes, which registers the commands; returns the listener as one that can accept."""
        import socket

        for name in ("client", "commands", "version"):
            __import__(f"vmm_core.qmp.{name}")
        listener = self._listener
        if not isinstance(listener, socket.socket):
            self._listener = listener = socket.socket(fileno=listener.detach())
        return listener

    def _client_gone(self) -> None:
        self._client = None
        self._listen()

    def _listen(self) -> None:
        if self._listener.fileno() >= 0 and self._client is None:
            self._vm.loop.add(self._listener.fileno(), READ, self._accept)

    def _event(self, name: str, data: dict[str, object]) -> None:
        now = time.time_ns()
        stamp = {"seconds": now // 1_000_000_000, "microseconds": now // 1000 % 1_000_000}
        event = {"event": name, "data": data, "timestamp": stamp}
        if self._client is not None:
            self._client.send(event)
        else:
            self._pending = [*self._pending[1 - MAX_PENDING :], event]
