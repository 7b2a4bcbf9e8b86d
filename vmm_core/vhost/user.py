"""One vhost-user session as the front-end: handshake, requests, answers checked, every wait bounded.

Specification: QEMU docs/interop/vhost-user.rst. The peer is hostile until proven otherwise: an answer of another
request, size, version or number of descriptors is a WireError, its descriptors are closed, and the session is over.
"""

from __future__ import annotations

from time import monotonic

from ipc import vhost_user as wire
from ipc.connection import NEED_REPLY, REPLY, VERSION, Connection
from ipc.errors import WireError, WireTimeout
from ipc.fds import close_all
from ipc.vhost_user_layout import U64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from ipc.connection import Frame
    from ipc.vhost_user_layout import Layout

REPLY_TIMEOUT = 10.0  # seconds for an ordinary answer
DRAIN_TIMEOUT = 30.0  # seconds for an answer that has to wait for I/O in flight
LOOK_PERIOD = 1.0  # seconds between looks at a backend whose answer is late
MAX_UNSETTLED = 32  # acknowledgements owed before they are collected: far below a socket buffer

PROTOCOL_FEATURES = wire.bits(
    wire.MQ,
    wire.REPLY_ACK,
    wire.BACKEND_REQ,
    wire.CONFIG_SPACE,
    wire.BACKEND_SEND_FD,
    wire.INFLIGHT_SHMFD,
    wire.RESET,
    wire.CONFIGURE_MEM_SLOTS,
    wire.STATUS,
)


class Refused(WireError):
    """The backend understood the request and said no; the session goes on."""


class Session:
    """A connected vhost-user socket after `handshake`. Not thread-safe, except `abort`.

    `features` are the backend's virtio features, vhost-user bits included; `protocol` the negotiated protocol features;
    `max_queues` and `max_regions` what it can hold (None: it did not say); `timeout` what each ordinary answer gets.
    Any answer may have to wait for a slow disk, so limits are long; a backend that `is_stopped` whenever it is
    looked at is not given as much.
    """

    def __init__(
        self,
        fd: int,
        *,
        dirty_log: bool = False,
        timeout: float = REPLY_TIMEOUT,
        is_stopped: Callable[[], bool] = bool,
    ) -> None:
        self._connection = Connection(fd)
        self._wanted = PROTOCOL_FEATURES | (wire.bits(wire.LOG_SHMFD) if dirty_log else 0)
        self.timeout = timeout
        self._is_stopped = is_stopped
        self._owed: list[wire.Message] = []
        self.features = 0
        self.protocol = 0
        self.max_queues: int | None = None
        self.max_regions: int | None = None

    def handshake(self, channel_fd: int) -> None:
        """Negotiate protocol features and own the backend; `channel_fd` (kept by the caller) is for its requests."""
        (self.features,) = self.call(wire.GET_FEATURES)
        if self.features >> wire.F_PROTOCOL_FEATURES & 1:
            self._negotiate()
        self.post(wire.SET_OWNER)
        if self.has(wire.MQ):
            (self.max_queues,) = self.call(wire.GET_QUEUE_NUM)
        if self.has(wire.CONFIGURE_MEM_SLOTS):
            (self.max_regions,) = self.call(wire.GET_MAX_MEM_SLOTS)
        if self.has(wire.BACKEND_REQ):
            self.post(wire.SET_BACKEND_REQ_FD, fds=(channel_fd,))
        self.settle()

    def has(self, protocol_feature: int) -> bool:
        """Whether this protocol feature (a bit number) was negotiated."""
        return bool(self.protocol >> protocol_feature & 1)

    def post(self, message: wire.Message, *values: Any, fds: Sequence[int] = ()) -> None:
        """Send a request that has no answer of its own; where the peer can, it acknowledges: see `settle`."""
        acknowledged = self.has(wire.REPLY_ACK)
        flags = NEED_REPLY if acknowledged else 0
        self._connection.send(message.id, flags, message.payload.pack(*values), fds, self.timeout)
        if acknowledged:
            self._owed.append(message)
            if len(self._owed) >= MAX_UNSETTLED:
                self.settle()

    def settle(self, timeout: float | None = None) -> None:
        """Collect the acknowledgements of everything posted; Refused names the first request that failed."""
        failed = None
        while self._owed:
            message = self._owed.pop(0)
            (result,), _ = self._answer(message, U64, (0, 0), timeout or self.timeout)
            if result and failed is None:
                failed = Refused(f"the backend refused {message.name}")
        if failed is not None:
            raise failed

    def synchronize(self) -> None:
        """Return when the backend has dealt with everything posted, also one that cannot acknowledge."""
        self.settle()
        if not self.has(wire.REPLY_ACK):
            self.call(wire.GET_FEATURES)

    def call(self, message: wire.Message, *values: Any, fds: Sequence[int] = (), timeout: float | None = None) -> Any:
        """Send a request that has an answer; return the answer's values. Its descriptors are closed."""
        answer, received = self.call_with_fds(message, *values, fds=fds, timeout=timeout)
        close_all(received)
        return answer

    def call_with_fds(
        self, message: wire.Message, *values: Any, fds: Sequence[int] = (), timeout: float | None = None
    ) -> tuple[Any, list[int]]:
        """As `call`, and return the answer's descriptors, which are the caller's to close."""
        self.settle()
        self._connection.send(message.id, 0, message.payload.pack(*values), fds, self.timeout)
        assert message.reply is not None
        return self._answer(message, message.reply, message.reply_fds, timeout or self.timeout)

    def read_config(self, size: int) -> bytes:
        """Return the first `size` bytes of configuration space; Refused when the backend has no such thing."""
        answer = self.call(wire.GET_CONFIG, 0, size, 0, bytes(size))
        data: bytes = answer[3]
        if len(data) != size:
            raise WireError(f"the backend answered GET_CONFIG with {len(data)} of {size} bytes")
        return data

    def fileno(self) -> int:
        return self._connection.fileno()

    def abort(self) -> None:
        """Make every wait of this session end at once, from any thread."""
        self._connection.shutdown()

    def close(self) -> None:
        self._connection.close()

    def _negotiate(self) -> None:
        (offered,) = self.call(wire.GET_PROTOCOL_FEATURES)
        chosen = offered & self._wanted
        if not chosen >> wire.BACKEND_REQ & 1:
            chosen &= ~wire.bits(wire.BACKEND_SEND_FD)
        self.post(wire.SET_PROTOCOL_FEATURES, chosen)
        self.protocol = chosen

    def _answer(
        self, message: wire.Message, layout: Layout, fds: tuple[int, int], timeout: float
    ) -> tuple[Any, list[int]]:
        frame = self._next_frame(timeout)
        try:
            if frame.request != message.id:
                raise WireError(f"the backend answered request {frame.request} instead of {message.name}")
            if frame.flags & ~NEED_REPLY != VERSION | REPLY:  # some peers echo NEED_REPLY
                raise WireError(f"the backend's answer to {message.name} has flags {frame.flags:#x}")
            if not fds[0] <= len(frame.fds) <= fds[1]:
                raise WireError(f"the backend's answer to {message.name} has {len(frame.fds)} descriptors")
            if message is wire.GET_CONFIG and len(frame.payload) <= layout.size:
                raise Refused("the backend refused GET_CONFIG")
            return layout.unpack(frame.payload), frame.take_fds()
        finally:
            frame.close()

    def _next_frame(self, timeout: float) -> Frame:
        deadline, stopped = monotonic() + timeout, False
        while True:
            left = deadline - monotonic()
            try:
                return self._connection.receive(min(left, LOOK_PERIOD))
            except WireTimeout:
                if left <= LOOK_PERIOD:
                    raise
            before, stopped = stopped, self._is_stopped()
            if before and stopped:
                raise WireError("the backend did not answer, being stopped")
