"""Listening sockets for monitors and chardevs: a stale socket file is replaced, a live one is not."""

from __future__ import annotations

import _socket as socket  # the start path: `socket` itself costs 4 ms of enums
import errno
import os
import stat

from vmm_core.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from socket import socket as Socket

    from vmm_core.loop import EventLoop

BACKLOG = 8
RETRY_SECONDS = 1.0
_listening: list[str] = []  # socket files made by this process, for `remove_all`


def listen_unix(path: str, what: str) -> socket.socket:
    """Listen on a unix socket at `path`, mode 0600; VmmError when somebody serves it already or it is another file."""
    _clear_stale(path, what)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        sock.bind(path)
    except OSError as error:
        sock.close()
        raise VmmError(f"{what}: {path}: {error.strerror or error}") from error
    finally:
        os.umask(mask)
    _listening.append(path)
    sock.listen(BACKLOG)
    sock.setblocking(False)
    return sock


def listen_tcp(host: str, port: int, what: str) -> socket.socket:
    """Listen on a TCP port of the IP address `host`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        sock.close()
        raise VmmError(f"{what}: {host}:{port}: {getattr(error, 'strerror', None) or error}") from error
    sock.setblocking(False)
    return sock


def accept(listener: Socket, loop: EventLoop, resume: Callable[[], None]) -> Socket | None:
    """Take the next client, or None: it went away, or no descriptor is free.

    In the latter case the listener is forgotten for a second, or the loop would spin; then `resume` adds it again.
    """
    try:
        peer, _ = listener.accept()
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.ECONNABORTED, errno.EINTR):
            loop.remove(listener.fileno())
            loop.call_later(RETRY_SECONDS, resume)
        return None
    if peer.family != socket.AF_UNIX:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return peer


def remove_socket(path: str) -> None:
    """Remove a socket file that this process made."""
    if path in _listening:
        _listening.remove(path)
        try:
            os.unlink(path)
        except OSError:
            pass  # somebody else removed it


def remove_all() -> None:
    """Remove every socket file that this process made: the last thing before it ends."""
    for path in list(_listening):
        remove_socket(path)


def _clear_stale(path: str, what: str) -> None:
    """A VM that was killed left its socket behind: nobody answers there, so it may go."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise VmmError(f"{what}: {path}: {error.strerror}") from error
    if not stat.S_ISSOCK(mode):
        raise VmmError(f"{what}: {path}: exists and is not a socket; remove it or choose another path")
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    probe.setblocking(False)
    try:
        probe.connect(path)
    except OSError as error:
        if error.errno == errno.ECONNREFUSED:
            os.unlink(path)
            return
        if error.errno != errno.EAGAIN:  # EAGAIN: served, and its backlog is full
            raise VmmError(f"{what}: {path}: {error.strerror}") from error
    finally:
        probe.close()
    raise VmmError(f"{what}: {path}: another process serves this socket")
