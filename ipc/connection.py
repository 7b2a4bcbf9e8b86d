"""A socket that carries vhost-user messages: header, payload and descriptors, each bounded in size and time.

The header is also that of vhost-user-gpu. What a message means is the caller's business; here it is only taken whole.
"""

from __future__ import annotations

import select
from _socket import SHUT_RDWR, socket
from struct import Struct
from time import monotonic

from ipc.errors import WireError
from ipc.fds import close_all, receive_some, send_all, wait_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

HEADER = Struct("=III")  # request, flags, size of the payload in bytes
MAX_PAYLOAD = 4096
VERSION = 1
VERSION_MASK = 3
REPLY = 1 << 2
NEED_REPLY = 1 << 3


class Frame:
    """One received message. Its descriptors are closed by `close`, unless `take_fds` handed them over."""

    __slots__ = ("fds", "flags", "payload", "request")

    def __init__(self, request: int, flags: int, payload: bytes, fds: list[int]) -> None:
        self.request = request
        self.flags = flags
        self.payload = payload
        self.fds = fds

    def take_fds(self) -> list[int]:
        """Return the descriptors; closing them is the caller's duty from now on."""
        fds, self.fds = self.fds, []
        return fds

    def close(self) -> None:
        """Close the descriptors that nobody took."""
        close_all(self.take_fds())


class Connection:
    """One end of a vhost-user socket; takes ownership of the descriptor. Not thread-safe, except `shutdown`."""

    def __init__(self, fd: int) -> None:
        self._socket = socket(fileno=fd)
        self._buffer = bytearray()
        self._fds: list[int] = []

    def fileno(self) -> int:
        """The descriptor, for polling; -1 once closed."""
        return self._socket.fileno()

    def send(self, request: int, flags: int, payload: bytes, fds: Sequence[int] = (), timeout: float = 10.0) -> None:
        """Send one message within `timeout` seconds; `fds` stay the caller's."""
        header = HEADER.pack(request, flags | VERSION, len(payload))
        send_all(self._socket, header + payload, fds, monotonic() + timeout)

    def receive(self, timeout: float) -> Frame:
        """Return the next message; it must be complete in `timeout` seconds, however slowly its bytes come in."""
        deadline = monotonic() + timeout
        while True:
            frame = self.receive_now()
            if frame is not None:
                return frame
            wait_for(self._socket.fileno(), select.POLLIN, deadline)

    def receive_now(self) -> Frame | None:
        """Return the next message if all of it has come in, else None at once; what came in so far is kept."""
        try:
            while (missing := self._missing()) > 0:
                data = receive_some(self._socket, missing, self._fds)
                if data is None:
                    return None
                self._buffer += data
        except WireError:
            self._drop()
            raise
        return self._frame()

    def shutdown(self) -> None:
        """Make every send and receive fail from now on, also one that waits in another thread."""
        try:
            self._socket.shutdown(SHUT_RDWR)
        except OSError:
            pass  # not connected any more, or closed already

    def close(self) -> None:
        """Close the socket and what a half-received message brought along."""
        self._drop()
        self._socket.close()

    def _missing(self) -> int:
        """Bytes until the header, then until the message is complete; checks the header as soon as it is there."""
        if len(self._buffer) < HEADER.size:
            return HEADER.size - len(self._buffer)
        _, flags, size = HEADER.unpack_from(self._buffer)
        if flags & VERSION_MASK != VERSION:
            raise WireError(f"message of protocol version {flags & VERSION_MASK}, expected {VERSION}")
        if size > MAX_PAYLOAD:
            raise WireError(f"payload of {size} bytes, at most {MAX_PAYLOAD} are allowed")
        return HEADER.size + int(size) - len(self._buffer)

    def _frame(self) -> Frame:
        request, flags, _ = HEADER.unpack_from(self._buffer)
        frame = Frame(request, flags, bytes(self._buffer[HEADER.size :]), self._fds)
        self._buffer, self._fds = bytearray(), []
        return frame

    def _drop(self) -> None:
        close_all(self._fds)
        self._buffer, self._fds = bytearray(), []
