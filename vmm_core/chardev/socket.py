"""The `socket` chardev: a unix or TCP socket, as a server (one client at a time) or as a client."""

from __future__ import annotations

import errno
import os
import socket

from vmm_core import log
from vmm_core.chardev.base import Chardev
from vmm_core.errors import VmmError
from vmm_core.loop import READ
from vmm_core.sockets import accept, listen_tcp, listen_unix, remove_socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket

    from vmm_core.config.records import ChardevConfig
    from vmm_core.loop import EventLoop
    from vmm_core.serial import SerialPort

CONNECT_LIMIT = 5.0  # seconds
RETRY_SECONDS = 1.0
HANGUP_LIMIT = 5.0  # seconds that input of a peer that has left waits for the guest


class SocketChardev(Chardev):
    """A server takes the next client when one is gone; a client connects again, once a second."""

    def __init__(self, config: ChardevConfig, loop: EventLoop) -> None:
        super().__init__(config, loop)
        self._listener: socket.socket | None = None
        self._peer: socket.socket | None = None
        self._closed = False
        if config.server:
            self._listener = socket.socket(fileno=_listen(config).detach())
        else:
            self._peer = _connect_to(config)

    @property
    def filename(self) -> str:
        where = f"unix:{self.config.path}" if self.config.path else f"tcp:{self.config.host}:{self.config.port}"
        return f"{where}{',server=on' if self.config.server else ''}"

    def attach(self, port: SerialPort) -> None:
        super().attach(port)
        if self._peer is not None:
            self._use(self._peer)
        else:
            self._listen()

    def close(self) -> None:
        self._closed = True
        super().close()
        if self._peer is not None:
            self._peer.close()
        if self._listener is not None:
            self._loop.remove(self._listener.fileno())
            self._listener.close()
            if self.config.path:
                remove_socket(self.config.path)

    def _accept(self, _events: int) -> None:
        if self._listener is None:
            return
        peer = accept(self._listener, self._loop, self._listen)
        if peer is not None:
            self._loop.remove(self._listener.fileno())
            self._use(peer)

    def _listen(self) -> None:
        if self._listener is not None and not self._closed:
            self._loop.add(self._listener.fileno(), READ, self._accept)

    def _use(self, peer: socket.socket) -> None:
        peer.setblocking(False)
        self._peer = peer
        self._connect(peer.fileno(), peer.fileno())

    def _hung_up(self) -> None:
        """The peer left before the guest took its last words. They wait a while, not for ever: others may come."""
        gone = self._peer

        def forget() -> None:
            if gone is not None and self._peer is gone:
                self._end_of_input()

        self._loop.call_later(HANGUP_LIMIT, forget)

    def _end_of_input(self) -> None:
        """The peer is gone: its socket is closed, another one may come."""
        self._disconnect()
        if self._peer is not None:
            self._peer.close()
            self._peer = None
        if self._listener is not None:
            self._listen()
        else:
            self._loop.call_later(RETRY_SECONDS, self._reconnect)

    def _reconnect(self) -> None:
        if self._closed:
            return
        try:
            self._use(_connect_to(self.config, limit=0.1))
        except VmmError:
            self._loop.call_later(RETRY_SECONDS, self._reconnect)


def _listen(config: ChardevConfig) -> _socket.socket:
    what = f"chardev {config.id}"
    if config.path:
        return listen_unix(config.path, what)
    return listen_tcp(config.host, int(config.port or 0), what)


def _connect_to(config: ChardevConfig, limit: float = CONNECT_LIMIT) -> socket.socket:
    family, address = (
        (socket.AF_UNIX, config.path) if config.path else (_family(config.host), (config.host, int(config.port or 0)))
    )
    peer = socket.socket(family, socket.SOCK_STREAM)
    peer.settimeout(limit)
    try:
        peer.connect(address)
    except OSError as error:
        peer.close()
        reason = os.strerror(error.errno) if error.errno else str(error)
        log.debug(f"chardev {config.id}: {errno.errorcode.get(error.errno or 0, 'no answer')}")
        raise VmmError(f"chardev {config.id}: cannot connect to {config.path or config.host}: {reason}") from error
    return peer


def _family(host: str) -> int:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
