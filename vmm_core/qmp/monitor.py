"""QMP listeners: greeting, one client at a time each unless told otherwise, events to all (facts 2.1).

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

MAX_UNHEARD = 50  # events kept while nobody listens; the oldest go first


class Monitor:
    """Serves `listener`, which is bound already, for so many clients; further ones wait in its backlog."""

    def __init__(self, config: MonitorConfig, listener: _socket.socket, vm: Vm, max_clients: int = 1) -> None:
        self._config = config
        self._listener = listener
        self._vm = vm
        self._clients: list[Client] = []
        self._max_clients = max_clients
        self._unheard: list[dict[str, Any]] = []  # events while nobody is connected
        vm.subscribe(self._event)
        self._listen()

    def close(self) -> None:
        """Disconnect the clients and remove the socket."""
        for client in list(self._clients):
            client.close()
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

        unheard, self._unheard = self._unheard, []
        client = Client(sock, self._vm, unheard, lambda: self._client_gone(client))
        self._clients.append(client)
        if len(self._clients) >= self._max_clients:
            self._vm.loop.remove(listener.fileno())
        client.send({"QMP": {"version": VERSION, "capabilities": []}})

    def _prepare(self) -> socket.socket:
        """Import what serving takes, which registers the commands; returns the listener as one that can accept."""
        import socket

        for name in ("client", "commands", "version"):
            __import__(f"vmm_core.qmp.{name}")
        listener = self._listener
        if not isinstance(listener, socket.socket):
            self._listener = listener = socket.socket(fileno=listener.detach())
        return listener

    def _client_gone(self, client: Client) -> None:
        self._clients.remove(client)
        if not self._clients:
            self._unheard = list(client.held)
        self._listen()

    def _listen(self) -> None:
        fd = self._listener.fileno()
        if fd >= 0 and len(self._clients) < self._max_clients:
            self._vm.loop.remove(fd)  # it may be there already
            self._vm.loop.add(fd, READ, self._accept)

    def _event(self, name: str, data: dict[str, object]) -> None:
        now = time.time_ns()
        stamp = {"seconds": now // 1_000_000_000, "microseconds": now // 1000 % 1_000_000}
        event = {"event": name, "data": data, "timestamp": stamp}
        clients = list(self._clients)
        for client in clients:
            client.tell(event)
        if not clients:
            self._unheard = [*self._unheard[1 - MAX_UNHEARD :], event]
