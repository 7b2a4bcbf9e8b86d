"""Connecting to a backend that somebody else runs (`-chardev socket,path=... -device vhost-user-...`)."""

from __future__ import annotations

import errno
from _socket import AF_UNIX, SOCK_STREAM, socket
from time import monotonic, sleep

from vmm_core.errors import VmmError

CONNECT_TIMEOUT = 2.0  # seconds: a backend started by the same script may need a moment to listen
RETRY_INTERVAL = 0.02
_NOT_YET = (errno.ENOENT, errno.ECONNREFUSED, errno.EAGAIN)


def connect(path: str, timeout: float = CONNECT_TIMEOUT) -> int:
    """Return a descriptor connected to the unix socket at `path`; VmmError after `timeout` seconds without success."""
    deadline = monotonic() + timeout
    sock = socket(AF_UNIX, SOCK_STREAM)
    try:
        sock.setblocking(False)
        while True:
            failure = _try_connect(sock, path)
            if failure is None:
                return sock.detach()
            if failure.errno not in _NOT_YET or monotonic() >= deadline:
                raise VmmError(f"cannot connect to the vhost-user backend at {path}: {failure.strerror or failure}")
            sleep(RETRY_INTERVAL)
    finally:
        sock.close()


def _try_connect(sock: socket, path: str) -> OSError | None:
    try:
        sock.connect(path)
    except OSError as error:  # a path that is too long is an OSError without errno
        return error
    return None
