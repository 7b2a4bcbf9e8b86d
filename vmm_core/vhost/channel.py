"""The backend's own requests to the front-end (vhost-user: SET_BACKEND_REQ_FD), served by the main loop.

Nothing here waits: a backend that dribbles bytes, floods or never reads its answers cannot hold the main loop.
"""

from __future__ import annotations

from time import monotonic

from ipc import vhost_user as wire
from ipc.connection import NEED_REPLY, REPLY, Connection
from ipc.errors import WireError
from ipc.fds import pair
from ipc.vhost_user_layout import U64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ipc.connection import Frame

MAX_REQUESTS = 64  # in one go; the rest waits for the loop's next round
MAX_PER_SECOND = 1000  # honest ones have a few in their life; each costs us time and the guest an interrupt
FAILED = 1


class BackendChannel:
    """Our end of the channel; takes ownership of the descriptor."""

    def __init__(self, fd: int) -> None:
        self._connection = Connection(fd)
        self._second, self._taken = 0.0, 0

    @classmethod
    def create(cls) -> tuple[BackendChannel, int]:
        """Return a channel and the descriptor of the backend's end, which the caller closes once it is sent."""
        ours, theirs = pair()
        return cls(ours), theirs

    def fileno(self) -> int:
        return self._connection.fileno()

    def serve(self) -> bool:
        """Answer what has come in; return whether the configuration changed. WireError: the channel is useless now."""
        changed = False
        for _ in range(MAX_REQUESTS):
            frame = self._connection.receive_now()
            if frame is None:
                break
            try:
                self._count()
                understood = self._understood(frame)
            finally:
                frame.close()
            changed |= understood
            if frame.flags & NEED_REPLY:
                answer = U64.pack(0 if understood else FAILED)
                self._connection.send(frame.request, REPLY, answer, timeout=0)
        return changed

    def close(self) -> None:
        self._connection.close()

    def _count(self) -> None:
        now = monotonic()
        if now >= self._second + 1:
            self._second, self._taken = now, 0
        self._taken += 1
        if self._taken > MAX_PER_SECOND:
            raise WireError(f"the backend sent more than {MAX_PER_SECOND} requests within a second")

    def _understood(self, frame: Frame) -> bool:
        """CONFIG_CHANGE is the only request that our protocol features allow; all others are answered "failed"."""
        if frame.flags & REPLY:
            raise WireError("the backend sent an answer that nobody asked for")
        message = wire.BACKEND_CONFIG_CHANGE
        return frame.request == message.id and message.payload.fits(len(frame.payload)) and not frame.fds
