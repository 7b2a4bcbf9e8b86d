"""A backend that answers from the table, except where a test makes it lie, stall or die."""

from __future__ import annotations

import os
import select
import socket
import threading
from typing import TYPE_CHECKING, Any

from ipc import vhost_user as wire
from ipc.connection import HEADER, NEED_REPLY, REPLY, VERSION, Connection
from ipc.errors import WireError
from ipc.fds import pair
from ipc.vhost_user_layout import U64

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipc.connection import Frame

    Answer = Callable[["FakeBackend", Frame], None]

FEATURES = 1 << 32 | 1 << 34 | wire.VHOST_FEATURES | 0x2F
PROTOCOL = wire.bits(
    wire.MQ,
    wire.LOG_SHMFD,
    wire.REPLY_ACK,
    wire.BACKEND_REQ,
    wire.CONFIG_SPACE,
    wire.INFLIGHT_SHMFD,
    wire.RESET,
    wire.CONFIGURE_MEM_SLOTS,
    wire.STATUS,
)


class FakeBackend:
    """Serves one front-end on a thread of its own; `end` is the front-end's end of the socket, to be taken once.

    `answers` maps a message's name to a function that answers instead. `seen` notes every request's name and values.
    """

    def __init__(self, *, features: int = FEATURES, protocol: int = PROTOCOL, queues: int = 8) -> None:
        ours, self.end = pair()
        self.socket = socket.socket(fileno=os.dup(ours))
        self._connection = Connection(ours)
        self.features = features
        self.protocol_offered = protocol
        self.protocol = 0
        self.queues = queues
        self.slots = 32
        self.config = bytearray(range(256))
        self.answers: dict[str, Answer] = {}
        self.seen: list[tuple[str, tuple[Any, ...]]] = []
        self.channel = -1
        self._stop, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def names(self) -> list[str]:
        return [name for name, _ in self.seen]

    def close(self) -> None:
        """End the thread and whatever it waits for."""
        os.close(self._wake)
        self._connection.shutdown()
        self._thread.join(10)
        assert not self._thread.is_alive()
        self.socket.close()
        self._connection.close()
        os.close(self._stop)
        if self.channel >= 0:
            os.close(self.channel)

    def hang_up(self) -> None:
        self._connection.shutdown()

    def raw(self, data: bytes, fds: list[int] | None = None) -> None:
        socket.send_fds(self.socket, [data], fds or [])

    def reply(
        self, frame: Frame, payload: bytes, fds: list[int] | None = None, *, request: int | None = None, flags: int = 5
    ) -> None:
        self.raw(HEADER.pack(frame.request if request is None else request, flags, len(payload)) + payload, fds)

    def honest(self, frame: Frame) -> None:
        """Answer as a good backend would."""
        message = wire.FRONTEND_REQUESTS[frame.request]
        values = message.payload.unpack(frame.payload)
        if message is wire.SET_PROTOCOL_FEATURES:
            (self.protocol,) = values
        elif message is wire.SET_BACKEND_REQ_FD:
            (self.channel,) = frame.take_fds()
        if message.replies(self.protocol):
            self._answer(message, frame, values)
        elif frame.flags & NEED_REPLY:
            self.reply(frame, U64.pack(0))

    def _answer(self, message: wire.Message, frame: Frame, values: tuple[Any, ...]) -> None:
        assert message.reply is not None
        numbers = {
            wire.GET_FEATURES: self.features,
            wire.GET_PROTOCOL_FEATURES: self.protocol_offered,
            wire.GET_QUEUE_NUM: self.queues,
            wire.GET_MAX_MEM_SLOTS: self.slots,
        }
        if message is wire.GET_CONFIG:
            offset, size, flags, _ = values
            self.reply(frame, message.reply.pack(offset, size, flags, self.config[offset : offset + size]))
        elif message is wire.GET_INFLIGHT_FD:
            fd = os.memfd_create("inflight")
            os.ftruncate(fd, 8192)
            try:
                self.reply(frame, message.reply.pack(4096, 4096, *values[2:]), [fd])
            finally:
                os.close(fd)
        elif message is wire.GET_VRING_BASE:
            self.reply(frame, message.reply.pack(values[0], 17))
        else:
            self.reply(frame, message.reply.pack(numbers[message]) if message in numbers else b"")

    def _serve(self) -> None:
        try:
            while self._readable():
                frame = self._connection.receive(10)
                message = wire.FRONTEND_REQUESTS[frame.request]
                self.seen.append((message.name, message.payload.unpack(frame.payload)))
                try:
                    self.answers.get(message.name, FakeBackend.honest)(self, frame)
                finally:
                    frame.close()
        except (WireError, OSError):
            self._connection.shutdown()

    def _readable(self) -> bool:
        ready, _, _ = select.select([self._connection.fileno(), self._stop], [], [])
        return self._stop not in ready


def acknowledgement(request: int, value: int) -> bytes:
    """The bytes of an acknowledgement."""
    return HEADER.pack(request, VERSION | REPLY, 8) + U64.pack(value)
