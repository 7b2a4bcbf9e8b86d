"""The core's end of one backend's control channel (`ipc/control.py`): commands, and their answers in bounded time.

Whatever the backend says that is not the answer to a question breaks the rules: the channel is closed and whoever owns
the backend is told, so a flood is over with its first message. msgpack is imported when it is first needed.
"""

from __future__ import annotations

from _socket import AF_UNIX, SOCK_SEQPACKET, socketpair

from ipc.errors import PeerClosed, WireError
from vmm_core.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ipc.control import Message, Value
    from vmm_core.loop import EventLoop, Timer

    Done = Callable[[Message, str], None]

ANSWER_LIMIT = 5.0  # seconds
MAX_WAITING = 64  # commands without an answer
CLOSED = "closed its control channel"
GONE = "the backend ended before it answered"


class ControlChannel:
    """Methods are for the event loop's thread. `on_broken(reason)` is called at most once: the backend broke the rules,
    or closed its end, which it also does by ending.
    """

    def __init__(self, name: str, loop: EventLoop) -> None:
        self._name = name
        self._loop = loop
        self._socket, self._theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)
        self._next_id = 1
        self._waiting: dict[int, tuple[Done, Timer]] = {}
        self._late: set[int] = set()  # given up, and perhaps answered yet
        self.on_broken: Callable[[str], object] = str
        loop.add(self._socket.fileno(), READ, self._readable)

    def take_end(self) -> int:
        """The backend's end, once; the caller closes it."""
        return self._theirs.detach()

    def ask(self, command: str, arguments: Mapping[str, Value], done: Done) -> None:
        """Send a command; `done(what it returned, "")` or `done({}, reason)` follows, perhaps before this returns.

        The reason is GONE when the backend ended instead of answering.
        """
        from ipc import control

        if self._socket.fileno() < 0:
            done({}, GONE)
            return
        if len(self._waiting) + len(self._late) >= MAX_WAITING:
            done({}, f"{MAX_WAITING} commands wait for an answer already")
            return
        identity, self._next_id = self._next_id, self._next_id + 1
        try:
            control.send(self._socket, {**arguments, "id": identity, "command": command})
        except PeerClosed:
            done({}, GONE)
        except WireError as error:
            done({}, str(error))
        else:
            timer = self._loop.call_later(ANSWER_LIMIT, lambda: self._give_up(identity))
            self._waiting[identity] = (done, timer)

    @property
    def is_waiting(self) -> bool:
        """Whether a command has neither been answered nor been given up."""
        return bool(self._waiting)

    def close(self) -> None:
        """The backend has ended; idempotent."""
        if self._socket.fileno() >= 0:
            self._loop.remove(self._socket.fileno())
            self._socket.close()
        self._theirs.close()
        self.on_broken = str  # whose owner holds us, in most cases
        waiting, self._waiting = self._waiting, {}
        for done, timer in waiting.values():
            timer.cancel()
            done({}, GONE)

    def _readable(self, _events: int) -> None:
        from ipc import control

        try:
            message = control.receive(self._socket)
            if message is not None:
                self._settle(message)
        except PeerClosed:
            self._break(CLOSED)
        except WireError as error:
            self._break(f"broke the rules of the control bus: {error}")

    def _break(self, reason: str) -> None:
        on_broken = self.on_broken
        self.close()
        on_broken(reason)

    def _settle(self, message: Message) -> None:
        identity, reason = message.pop("id", None), message.pop("error", "")
        if type(identity) is not int:  # nor a bool
            raise WireError("an answer without a number")
        if identity in self._late:
            self._late.remove(identity)
            return
        if identity not in self._waiting or not isinstance(reason, str):
            raise WireError("an answer that nobody asked for")
        done, timer = self._waiting.pop(identity)
        timer.cancel()
        done(message, reason)

    def _give_up(self, identity: int) -> None:
        done, _timer = self._waiting.pop(identity)
        self._late.add(identity)
        done({}, f"the backend did not answer within {ANSWER_LIMIT:g} s")
