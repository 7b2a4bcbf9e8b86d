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
    while True:
        sock, failure = try_connect(path)
        if sock >= 0:
            return sock
        if failure.errno not in _NOT_YET or monotonic() >= deadline:
            raise VmmError(f"cannot connect to the vhost-user backend at {path}: {failure.strerror or failure}")
        sleep(RETRY_INTERVAL)


def try_connect(path: str) -> tuple[int, OSError]:
    """Return a connected descriptor without waiting, or -1 and why not."""
    sock = socket(AF_UNIX, SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect(path)
    except OSError as error:  # a path that is too long is an OSError without errno
        return -1, error
    else:
        return sock.detach(), OSError()
    finally:
        sock.close()
