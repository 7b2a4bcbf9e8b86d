"""Bytes and descriptors over unix stream sockets (SCM_RIGHTS), without blocking for longer than asked.

`_socket` instead of `socket`: the same calls without the import cost (enum, selectors), as the start path uses this.
"""

from __future__ import annotations

import errno
import os
import select
import struct
from _socket import (
    AF_UNIX,
    CMSG_LEN,
    MSG_CMSG_CLOEXEC,
    MSG_CTRUNC,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    SCM_RIGHTS,
    SOCK_STREAM,
    SOL_SOCKET,
    socket,
    socketpair,
)
from time import monotonic

from ipc.errors import PeerClosed, WireError, WireTimeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_FDS = 32  # descriptors with one message
_ANCILLARY = CMSG_LEN(MAX_FDS * 4)
_GONE = (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN, errno.ESHUTDOWN)


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors; one that is closed already does not keep the others open. -1 stands for none."""
    for fd in fds:
        if fd >= 0:
            try:
                os.close(fd)
            except OSError:
                pass


def pair() -> tuple[int, int]:
    """Return two connected stream sockets, close-on-exec."""
    one, other = socketpair(AF_UNIX, SOCK_STREAM)
    fds = one.detach(), other.detach()
    for fd in fds:
        os.set_inheritable(fd, False)
    return fds


def wait_for(fd: int, events: int, deadline: float) -> None:
    """Return when `fd` is ready for `events` (or hung up); WireTimeout at `deadline` (monotonic seconds)."""
    poller = select.poll()
    poller.register(fd, events)
    while True:
        left = deadline - monotonic()
        if left <= 0:
            raise WireTimeout("the peer did not answer in time")
        if poller.poll(left * 1000 + 1):
            return


def receive_some(sock: socket, limit: int, fds: list[int]) -> bytes | None:
    """Receive up to `limit` bytes without waiting; descriptors are appended to `fds`, also when this raises.

    None: nothing there yet. PeerClosed at the end of the stream; WireError when descriptors were lost or too many.
    """
    try:
        data, ancillary, flags, _ = sock.recvmsg(limit, _ANCILLARY, MSG_DONTWAIT | MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        return None
    except OSError as error:
        raise _wire_error(error) from error
    for level, kind, rights in ancillary:
        if level == SOL_SOCKET and kind == SCM_RIGHTS:
            fds.extend(struct.unpack(f"{len(rights) // 4}i", rights[: len(rights) // 4 * 4]))
    if flags & MSG_CTRUNC:
        raise WireError(f"descriptors were lost: more than {MAX_FDS} sent, or no room for them in this process")
    if len(fds) > MAX_FDS:
        raise WireError(f"{len(fds)} descriptors with one message, at most {MAX_FDS} are allowed")
    if not data:
        raise PeerClosed("the peer closed the connection")
    return data


def send_all(sock: socket, data: bytes, fds: Sequence[int], deadline: float) -> None:
    """Send `data`, with `fds` on its first byte; the caller keeps `fds`. WireTimeout at `deadline` (monotonic)."""
    rest = memoryview(data)
    rights = [(SOL_SOCKET, SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
    while rest:
        try:
            sent = sock.sendmsg([rest], rights, MSG_DONTWAIT | MSG_NOSIGNAL)
        except BlockingIOError:
            wait_for(sock.fileno(), select.POLLOUT, deadline)
            continue
        except OSError as error:
            raise _wire_error(error) from error
        rest = rest[sent:]
        rights = []


def _wire_error(error: OSError) -> WireError:
    if error.errno in _GONE:
        return PeerClosed("the peer closed the connection")
    return WireError(f"the connection failed: {error.strerror}")
