"""The backend's own request to the front-end: "configuration space changed" (vhost-user, BACKEND_CONFIG_CHANGE_MSG)."""

from __future__ import annotations

import threading

from ipc import vhost_user as wire
from ipc.connection import Connection
from ipc.errors import WireError


class ConfigNotifier:
    """Takes ownership of the channel's descriptor; any thread may `notify`, none ever waits.

    No reply is asked for: a front-end that does not read costs nothing, and what is queued already says it all.
    """

    def __init__(self, fd: int) -> None:
        self._connection: Connection | None = Connection(fd)
        self._lock = threading.Lock()

    def notify(self) -> None:
        with self._lock:
            if self._connection is None:
                return
            try:
                self._connection.send(wire.BACKEND_CONFIG_CHANGE.id, 0, b"", timeout=0)
            except WireError:
                pass  # full: it has not read the last one; gone: the session is about to end

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
