"""The control bus: what the core tells a running backend beside vhost-user, and what the backend answers.

Each backend has a SOCK_SEQPACKET connection of its own, made before it is born: who speaks on it is who it belongs to,
so a backend cannot speak as another, and needs no right to connect anywhere. One packet is one msgpack map.

| from | map | meaning |
|---|---|---|
| core | `id`, `command`, and its arguments | a command; `id` counts up |
| backend | `id`, and what the command returns | done |
| backend | `id`, `error` (one line) | not done, nothing has changed |

Both sides bound what they take before they look at it: packets of 4 KiB, 16 keys, texts of 1 KiB, no nesting, keys that
are text and occur once. A backend says nothing unasked. Events, logs and statistics have ways of their own that cost
no message: the lifeline and pidfd, a pipe, shared memory.
"""

from __future__ import annotations

from _socket import AF_UNIX, MSG_CTRUNC, MSG_DONTWAIT, MSG_NOSIGNAL, MSG_TRUNC, SOCK_SEQPACKET, socket, socketpair

import msgpack

from ipc.errors import PeerClosed, WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    Value = str | int | bool | None
    Message = dict[str, Value]

MAX_PACKET = 4096
MAX_KEYS = 16
MAX_TEXT = 1024  # bytes


def channel() -> tuple[socket, socket]:
    """Two ends of a new connection."""
    one, other = socketpair(AF_UNIX, SOCK_SEQPACKET)
    return one, other


def encode(message: Mapping[str, Value]) -> bytes:
    """Return the packet; ValueError for a message that the other side would not take."""
    packet: bytes = msgpack.packb(message)
    try:
        decode(packet)
    except WireError as error:
        raise ValueError(str(error)) from error
    return packet


def decode(packet: bytes) -> Message:
    """The reverse of `encode`; WireError for anything else."""
    if len(packet) > MAX_PACKET:
        raise WireError(f"a message of more than {MAX_PACKET} bytes")
    try:
        pairs = msgpack.unpackb(
            packet,
            object_pairs_hook=tuple,  # an array is a list
            max_map_len=MAX_KEYS,
            max_str_len=MAX_TEXT,
            max_array_len=0,
            max_bin_len=0,
            max_ext_len=0,
        )
    except (ValueError, msgpack.UnpackException) as error:  # UnicodeDecodeError is a ValueError
        raise WireError(f"not a message: {str(error) or type(error).__name__}") from error
    if not isinstance(pairs, tuple):
        raise WireError("not a message: not a map")
    message = {key: value for key, value in pairs if isinstance(key, str)}
    if len(message) != len(pairs):
        raise WireError("not a message: its keys are not text, or occur twice")
    for key, value in message.items():
        if value is not None and not isinstance(value, (str, int)):  # bool is an int
            raise WireError(f"not a message: the value of {key[:20]!r} is a {type(value).__name__}")
    return message


def send(sock: socket, message: Mapping[str, Value]) -> None:
    """Send one message, now; PeerClosed, WireError when the other side does not read what it has got."""
    packet = encode(message)
    try:
        sock.sendmsg([packet], [], MSG_DONTWAIT | MSG_NOSIGNAL)
    except BlockingIOError as error:
        raise WireError("it does not read its messages") from error
    except OSError as error:
        raise PeerClosed("the peer closed the connection") from error


def receive(sock: socket) -> Message | None:
    """Return the next message; None when there is none yet. PeerClosed at the end, WireError for what is no message.

    Descriptors that come with it are dropped by the kernel, as no room is made for them.
    """
    try:
        packet, _ancillary, flags, _address = sock.recvmsg(MAX_PACKET, 0, MSG_DONTWAIT)
    except BlockingIOError:
        return None
    except ConnectionResetError as error:
        raise PeerClosed("the peer closed the connection") from error
    if flags & MSG_CTRUNC:
        raise WireError("descriptors, where none are allowed")
    if flags & MSG_TRUNC:
        raise WireError(f"a message of more than {MAX_PACKET} bytes")
    if not packet:
        raise PeerClosed("the peer closed the connection")
    return decode(packet)
