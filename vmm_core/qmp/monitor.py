"""QMP listeners: greeting, one client at a time each, events to all (facts 2.1)."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any

from vmm_core.loop import READ
from vmm_core.qmp import commands as _commands  # noqa: F401  (registers them)
from vmm_core.qmp.client import Client
from vmm_core.qmp.version import VERSION
from vmm_core.sockets import accept, remove_socket

if TYPE_CHECKING:
    import _socket

    from vmm_core.config.records import MonitorConfig
    from vmm_core.vm import Vm

GREETING = {"QMP": {"version": VERSION, "capabilities": []}}
MAX_PENDING = 50  # events kept while nobody is connected; the oldest go first


class Monitor:
    """Serves `listener`, which is bound already; further clients wait in its backlog."""

    def __init__(self, config: MonitorConfig, listener: _socket.socket, vm: Vm) -> None:
        self._config = config
        self._listener = socket.socket(fileno=listener.detach())
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
        sock = accept(self._listener, self._vm.loop, self._listen)
        if sock is None:
            return
        self._vm.loop.remove(self._listener.fileno())
        self._client = Client(sock, self._vm, self._client_gone)
        self._client.send(GREETING)
        pending, self._pending = self._pending, []
        for event in pending:
            if self._client is not None:
                self._client.send(event)

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
