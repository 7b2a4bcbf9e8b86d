"""One front-end's session: each request is checked against the table and the state, then driven into the device.

Specification: QEMU docs/interop/vhost-user.rst. A request that cannot be done is refused: with an acknowledgement
where the front-end asked for one, else by ending the session, for a front-end that believes it succeeded is worse off.
Descriptors that nobody took are closed with their message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backends.runtime.device import DeviceError
from backends.runtime.feature_requests import FeatureRequests
from backends.runtime.memory_requests import MemoryRequests
from backends.runtime.ring_requests import RingRequests
from ipc import vhost_user as wire
from ipc.connection import NEED_REPLY, REPLY
from ipc.errors import WireError
from ipc.fds import close_all
from ipc.vhost_user_layout import U64

if TYPE_CHECKING:
    from collections.abc import Callable

    from backends.runtime.device import Device
    from ipc.connection import Connection, Frame

FAILED = 1
HARMLESS = (wire.SET_CONFIG, wire.SET_STATUS)  # a guest can cause these to be refused: no reason to end the session
MAX_LOG_LINES = 50  # per session


class Session(FeatureRequests, MemoryRequests, RingRequests):
    """`handle` one message after another; `close` when the connection is over, which frees what the front-end gave."""

    def __init__(self, device: Device, connection: Connection, log: Callable[[str], None]) -> None:
        super().__init__(device)
        self._connection = connection
        self._log = log
        self._lines_left = MAX_LOG_LINES

    def handle(self, frame: Frame) -> None:
        """Do what `frame` asks for and answer it; WireError ends the session. Closes the frame."""
        message = wire.FRONTEND_REQUESTS.get(frame.request)
        try:
            if frame.flags & REPLY:
                raise WireError(f"request {frame.request} is marked as a reply")
            self._answer(message, frame, self._perform(message, frame))
        except DeviceError as error:
            self._refuse(message, frame, str(error))
        finally:
            frame.close()

    def close(self) -> None:
        """Free everything that belongs to this session."""
        self.device.config_change_notifier = None
        if self.notifier is not None:
            self.notifier.close()
        self.device.end_session()

    # Checking and answering.

    def _perform(self, message: wire.Message | None, frame: Frame) -> Any:
        if message is None:
            raise DeviceError(f"unknown request {frame.request}")
        if not message.allowed(self.protocol):
            feature = wire.PROTOCOL_FEATURE_NAMES[message.gate or 0]
            raise DeviceError(f"{message}: protocol feature {feature} was not negotiated")
        handler = getattr(self, f"_{message.name.lower()}", None)
        if handler is None:
            raise DeviceError(f"{message} is nothing for a {self.device.name}")
        if not message.fds[0] <= len(frame.fds) <= message.fds[1]:
            raise DeviceError(f"{message} with {len(frame.fds)} descriptors")
        try:
            values = message.payload.unpack(frame.payload)
        except WireError as error:
            raise DeviceError(f"{message}: {error}") from error
        self._check_index(message, values)
        return handler(values, frame)

    def _check_index(self, message: wire.Message, values: tuple[Any, ...]) -> None:
        """The index is compared as wide as it came: cut to a byte first, 0x100 would be ring 0."""
        if not message.index:
            return
        index = values[0]
        if message.index == wire.INDEX_LOW_BYTE:
            index &= ~wire.VRING_NO_FD
        if index >= len(self.rings):
            raise DeviceError(f"{message}: there is no ring {index:#x}")

    def _answer(self, message: wire.Message | None, frame: Frame, result: Any) -> None:
        if message is None:
            return
        if message.replies(self.protocol) and message.reply is not None:
            values, fds = result if isinstance(result, tuple) else ((result,), [])
            try:
                self._connection.send(message.id, REPLY, message.reply.pack(*values), fds)
            finally:
                close_all(fds)
        elif self._acknowledges(frame):
            self._connection.send(message.id, REPLY, U64.pack(0))

    def _acknowledges(self, frame: Frame) -> bool:
        return bool(frame.flags & NEED_REPLY and self.has(wire.REPLY_ACK))

    def _refuse(self, message: wire.Message | None, frame: Frame, reason: str) -> None:
        self._log_bounded(f"refused: {reason}")
        own_reply = message is not None and message.replies(self.protocol)
        if message is wire.GET_CONFIG:
            self._connection.send(frame.request, REPLY, b"")
        elif self._acknowledges(frame) and not own_reply:
            self._connection.send(frame.request, REPLY, U64.pack(FAILED))
        elif message not in HARMLESS:
            raise WireError(reason)

    def _log_bounded(self, line: str) -> None:
        self._lines_left -= 1
        if self._lines_left > 0:
            self._log(line)
        elif self._lines_left == 0:
            self._log("further refusals in this session are not logged")
