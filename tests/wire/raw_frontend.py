"""A front-end that says exactly what a test tells it to, also what no honest one would."""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING, Any

from ipc import vhost_user as wire
from ipc.connection import HEADER, NEED_REPLY, REPLY, VERSION, Connection
from ipc.errors import PeerClosed, WireError
from ipc.fds import close_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ipc.connection import Frame

TIMEOUT = 10.0
F_VERSION_1 = 32
F_BLK_CONFIG_WCE = 11  # without it a disk takes no SET_CONFIG
MIB = 1 << 20
USER = 0x7F00_0000_0000
LOW = (0, MIB, USER, 0)  # guest address, size, user address, offset in the file
NEXT = (MIB, MIB, USER + MIB, MIB)  # adjoins LOW in every respect, and still is another region
HIGH = (4 * MIB, MIB, USER + 4 * MIB, 2 * MIB)  # after a hole
RAM_SIZE = 3 * MIB


class RawFrontend:
    """One connection to the backend under test."""

    def __init__(self, path: str | socket.socket) -> None:
        sock = path if isinstance(path, socket.socket) else socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(TIMEOUT)
        if isinstance(path, str):
            sock.connect(path)
        self._socket = socket.socket(fileno=os.dup(sock.fileno()))
        self._connection = Connection(sock.detach())
        self.protocol = 0

    def close(self) -> None:
        self._socket.close()
        self._connection.close()

    def raw(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send bytes as they are; a backend that has had enough already is no error of the test."""
        try:
            socket.send_fds(self._socket, [data], list(fds))
        except (BrokenPipeError, ConnectionResetError):
            pass

    def send(
        self,
        message: wire.Message,
        *values: Any,
        fds: Sequence[int] = (),
        flags: int = VERSION,
        payload: bytes | None = None,
    ) -> None:
        body = message.payload.pack(*values) if payload is None else payload
        self.raw(HEADER.pack(message.id, flags, len(body)) + body, fds)

    def receive(self) -> Frame:
        return self._connection.receive(TIMEOUT)

    def call(self, message: wire.Message, *values: Any, fds: Sequence[int] = ()) -> Any:
        """The answer's values; its descriptors are closed."""
        answer, received = self.call_with_fds(message, *values, fds=fds)
        close_all(received)
        return answer

    def call_with_fds(self, message: wire.Message, *values: Any, fds: Sequence[int] = ()) -> tuple[Any, list[int]]:
        self.send(message, *values, fds=fds)
        frame = self.receive()
        assert (frame.request, frame.flags & ~NEED_REPLY) == (message.id, VERSION | REPLY)
        assert message.reply is not None
        assert message.reply_fds[0] <= len(frame.fds) <= message.reply_fds[1]
        return message.reply.unpack(frame.payload), frame.take_fds()

    def acknowledged(self, message: wire.Message, *values: Any, **options: Any) -> bool:
        """Whether the backend says that it did as asked; a closed connection is a "no", too."""
        self.send(message, *values, flags=VERSION | NEED_REPLY, **options)
        try:
            frame = self.receive()
        except PeerClosed:
            return False
        try:
            assert (frame.request, frame.flags & ~NEED_REPLY) == (message.id, VERSION | REPLY)
            assert not frame.fds
            if message.replies(self.protocol):
                assert message.reply is not None
                return message.reply.fits(len(frame.payload))
            (result,) = struct.unpack("=Q", frame.payload)
            return bool(result == 0)
        finally:
            frame.close()

    def closed(self) -> bool:
        """Whether the backend ended the session (waits for it to answer one way or the other)."""
        self.send(wire.GET_FEATURES)
        try:
            self.receive().close()
        except WireError:
            return True
        return False

    def greet(self, *, without: int = 0, features: int | None = None) -> None:
        """Negotiate what the backend offers, `without` some protocol features."""
        (offered,) = self.call(wire.GET_FEATURES)
        (protocol,) = self.call(wire.GET_PROTOCOL_FEATURES)
        self.protocol = protocol & ~without
        self.send(wire.SET_PROTOCOL_FEATURES, self.protocol)
        self.send(wire.SET_OWNER)
        if features is None:
            features = 1 << F_VERSION_1 | 1 << F_BLK_CONFIG_WCE | wire.bits(wire.F_PROTOCOL_FEATURES)
        self.send(wire.SET_FEATURES, features & offered)

    def map_ram(self, ram: int, *regions: tuple[int, int, int, int]) -> None:
        regions = regions or (LOW, NEXT, HIGH)
        assert self.acknowledged(wire.SET_MEM_TABLE, list(regions), fds=[ram] * len(regions))

    def set_ring(self, index: int = 0, num: int = 64, base: int = 0, at: int = USER) -> None:
        """A ring that could start: split, its parts one page each, from user address `at`."""
        assert self.acknowledged(wire.SET_VRING_NUM, index, num)
        assert self.acknowledged(wire.SET_VRING_BASE, index, base)
        assert self.acknowledged(wire.SET_VRING_ADDR, index, 0, at, at + 0x2000, at + 0x1000, 0)

    def start_ring(self, index: int = 0, **where: int) -> None:
        self.set_ring(index, **where)
        fd = os.eventfd(0)
        try:
            assert self.acknowledged(wire.SET_VRING_CALL, index, fds=[fd])
            assert self.acknowledged(wire.SET_VRING_KICK, index, fds=[fd])
        finally:
            os.close(fd)
        assert self.acknowledged(wire.SET_VRING_ENABLE, index, 1)
