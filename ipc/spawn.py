"""What the core and its spawner say to each other: flat maps, one a packet (SOCK_SEQPACKET), descriptors beside them.

| from | `op` | fields | descriptors |
|---|---|---|---|
| core | `start` | id, kind, name, seccomp, renewed, strict, command, `fd.NAME` (its index), `option.NAME` | as named |
| spawner | `ready` | pid, generation (how many spawners there have been) | the keeper's pidfd and its own |
| spawner | `started` | id, pid (in the backends' namespace) | a pidfd |
| spawner | `failed` | id, reason | |
| spawner | `confined` | id, landlock (its ABI version), `missing.N`: what of the sandbox could not be had | |
| spawner | `exited` | pid, status (as from waitpid) | |

A packet is `key NUL value NUL …`, each value led by a letter for its type. msgpack would do, but costs both sides 5 to
10 ms of import before the guest runs.
"""

from __future__ import annotations

import select
import struct
from _socket import (
    AF_UNIX,
    CMSG_LEN,
    MSG_CMSG_CLOEXEC,
    MSG_CTRUNC,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    MSG_TRUNC,
    SCM_RIGHTS,
    SOCK_SEQPACKET,
    SOL_SOCKET,
    socket,
    socketpair,
)
from time import monotonic

from ipc.errors import PeerClosed, WireError
from ipc.fds import close_all, wait_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Value = str | int | bool | None
    Message = dict[str, Value]

MAX_PACKET = 64 << 10
MAX_FDS = 32


def channel() -> tuple[socket, socket]:
    """Two ends of a new connection."""
    one, other = socketpair(AF_UNIX, SOCK_SEQPACKET)
    return one, other


def send(sock: socket, message: Mapping[str, Value], fds: Sequence[int] = (), timeout: float = 5.0) -> None:
    """Send one message within `timeout` seconds; the caller keeps `fds`. PeerClosed, WireError, WireTimeout."""
    packet = encode(message)
    rights = [(SOL_SOCKET, SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
    deadline = monotonic() + timeout
    while True:
        try:
            sock.sendmsg([packet], rights, MSG_DONTWAIT | MSG_NOSIGNAL)
            return
        except BlockingIOError:
            wait_for(sock.fileno(), select.POLLOUT, deadline)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise PeerClosed("the peer closed the connection") from error
        except OSError as error:
            raise WireError(f"cannot send {message.get('op')}: {error.strerror}") from error


def receive(sock: socket) -> tuple[Message, list[int]] | None:
    """Return the next message and its descriptors, which are the caller's to close; None when there is none yet.

    PeerClosed at the end of the connection, WireError for a packet that is no message.
    """
    try:
        data, ancillary, flags, _ = sock.recvmsg(MAX_PACKET, CMSG_LEN(4 * MAX_FDS), MSG_DONTWAIT | MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        return None
    except ConnectionResetError as error:
        raise PeerClosed("the peer closed the connection") from error
    fds: list[int] = []
    for level, kind, rights in ancillary:
        if level == SOL_SOCKET and kind == SCM_RIGHTS:
            fds.extend(struct.unpack(f"{len(rights) // 4}i", rights[: len(rights) // 4 * 4]))
    try:
        if not data:
            raise PeerClosed("the peer closed the connection")
        if flags & (MSG_TRUNC | MSG_CTRUNC):
            raise WireError("a message or its descriptors were cut off")
        return decode(data), fds
    except WireError:
        close_all(fds)
        raise


def encode(message: Mapping[str, Value]) -> bytes:
    """Return the packet; ValueError for text with a NUL or a message that is too long."""
    parts = []
    for key, value in message.items():
        parts += [key, _encode_value(value)]
    packet = "\0".join(parts).encode("utf-8", "surrogateescape")
    if packet.count(b"\0") != max(0, len(parts) - 1):
        raise ValueError("a NUL in a word")
    if len(packet) > MAX_PACKET:
        raise ValueError(f"a message of {len(packet)} bytes, at most {MAX_PACKET} are allowed")
    return packet


def decode(packet: bytes) -> Message:
    """The reverse of `encode`; WireError for anything else."""
    parts = packet.decode("utf-8", "surrogateescape").split("\0")
    if len(parts) % 2:
        raise WireError("a key without a value")
    try:
        return {key: _decode_value(text) for key, text in zip(parts[::2], parts[1::2], strict=True)}
    except (ValueError, IndexError) as error:
        raise WireError(f"not a value: {error}") from error


def section(message: Message, name: str) -> Message:
    """The entries `name.*`, without that prefix, in their order."""
    prefix = f"{name}."
    return {key[len(prefix) :]: value for key, value in message.items() if key.startswith(prefix)}


def _encode_value(value: Value) -> str:
    if value is None:
        return "n"
    if isinstance(value, bool):
        return "b1" if value else "b0"
    if isinstance(value, int):
        return f"i{value}"
    return f"s{value}"


def _decode_value(text: str) -> Value:
    kind, rest = text[0], text[1:]
    if kind == "s":
        return rest
    if kind == "i":
        return int(rest)
    if kind == "b":
        return rest == "1"
    if kind == "n":
        return None
    raise ValueError(text[:20])
