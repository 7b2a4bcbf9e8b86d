"""One QMP client: its commands in, answers and events out, every buffer bounded."""

from __future__ import annotations

import os
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec

from vmm_core import log
from vmm_core.errors import VmmError, describe
from vmm_core.loop import READ, WRITE
from vmm_core.qmp.errors import QmpError
from vmm_core.qmp.monitor import MAX_UNHEARD
from vmm_core.qmp.registry import Context, Deferred, execute
from vmm_core.qmp.stream import JsonStream, StreamError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vmm_core.vm import Vm

MAX_BACKLOG = 1 << 20  # bytes of answers and events that a client has not read; beyond that it is disconnected
BUSY_BACKLOG = MAX_BACKLOG // 4  # beyond that its commands wait
MAX_FDS = 16
READ_SIZE = 16 << 10
ENVELOPE_KEYS = {"execute", "arguments", "id"}


class Client:
    """Serves a connected socket until it closes, floods, or stops reading for too long; then calls `on_gone`.

    `held` are events from before it came. It hears no event before the answer to its first command, which is how
    libraries know that they may stop waiting for the capabilities.
    """

    def __init__(
        self, sock: socket.socket, vm: Vm, held: Iterable[dict[str, Any]], on_gone: Callable[[], None]
    ) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._vm = vm
        self._on_gone = on_gone
        self._stream = JsonStream()
        self._output = bytearray()
        self._commands: deque[bytes] = deque()  # complete, waiting for room for their answers
        self._fds: list[int] = []
        self.held = deque(held, MAX_UNHEARD)
        self._introduced = False  # a command of its has been answered
        self._open = True
        self._ended = False  # it sends nothing more, but may still read
        self._awaits = False  # the answer to a command
        self._interest = READ
        vm.loop.add(sock.fileno(), READ, self._ready)

    def send(self, message: dict[str, Any]) -> None:
        """Queue a message and write what goes at once."""
        if not self._open:
            return
        self._output += msgspec.json.encode(message) + b"\r\n"
        self._flush()
        if len(self._output) > MAX_BACKLOG:
            log.warn(f"QMP: a client left {len(self._output)} bytes unread and is disconnected")
            self.close()

    def tell(self, event: dict[str, Any]) -> None:
        """Let it know of an event, now or as soon as it has introduced itself."""
        if self._introduced:
            self.send(event)
        else:
            self.held.append(event)

    def take_fd(self) -> int:
        """The last descriptor that came with the commands so far (`getfd`); QmpError when there is none."""
        if not self._fds:
            raise QmpError("Invalid SCM message: no file descriptor supplied via SCM_RIGHTS")
        fd = self._fds.pop()
        self._drop_fds()
        return fd

    def close(self) -> None:
        """Hang up, once."""
        if not self._open:
            return
        self._open = False
        self._vm.loop.remove(self._socket.fileno())
        self._socket.close()
        self._drop_fds()
        self._on_gone()

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        if self._open and events & ~WRITE and not self._ended:
            self._receive()
        if self._open:
            self._work()

    def _receive(self) -> None:
        try:
            data, ancillary, flags, _ = self._socket.recvmsg(
                READ_SIZE, socket.CMSG_LEN(4 * MAX_FDS), socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError:
            data, ancillary, flags = b"", [], 0
        self._keep_fds(ancillary)
        self._ended = not data
        if flags & socket.MSG_CTRUNC:
            self.close()
            return
        try:
            self._commands.extend(value for value in self._stream.feed(data) if value.strip())
        except StreamError as error:
            self.send(_error(QmpError(str(error))))
            self.close()

    def _work(self) -> None:
        """Answer what was received, as long as the client reads the answers; then see to what comes next."""
        while self._open and self._commands and not self._awaits and len(self._output) <= BUSY_BACKLOG:
            answer = self._answer(self._commands.popleft())
            if not self._commands and self._stream.is_empty:
                self._drop_fds()  # those that no getfd has asked for
            if answer is not None:
                self._reply(answer)
        if not self._open:
            return
        if self._ended and not self._commands and not self._output and not self._awaits:
            self.close()
        else:
            self._watch()

    def _reply(self, answer: dict[str, Any]) -> None:
        self.send(answer)
        self._introduced = True
        while self._open and self.held:
            self.send(self.held.popleft())

    def _wait_for(self, deferred: Deferred, envelope: dict[str, Any]) -> None:
        self._awaits = True

        def answer(result: object) -> None:
            self._awaits = False
            self._reply((_error(result) if isinstance(result, QmpError) else {"return": result}) | envelope)
            if self._open:
                self._work()

        deferred.when_settled(answer)

    def _answer(self, value: bytes) -> dict[str, Any] | None:
        """The answer to one command; None when it comes later."""
        envelope: dict[str, Any] = {}
        try:
            message = _decode(value)
            envelope = {"id": message["id"]} if "id" in message else {}
            _check(message)
            result = execute(Context(self._vm, self), message["execute"], message.get("arguments", {}))
        except QmpError as error:
            return _error(error) | envelope
        except VmmError as error:
            return _error(QmpError(describe(error).replace("\n", " "))) | envelope
        except Exception as error:  # a broken command must not leave its client waiting
            log.exception("QMP command failed", error)
            return _error(QmpError(f"internal error: {type(error).__name__}: {error}")) | envelope
        if isinstance(result, Deferred):
            self._wait_for(result, envelope)
            return None
        return {"return": result} | envelope

    def _flush(self) -> None:
        try:
            while self._output:
                sent = self._socket.send(self._output, socket.MSG_NOSIGNAL)
                del self._output[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        self._watch()

    def _watch(self) -> None:
        """A client that does not read its answers is not asked for more commands."""
        busy = self._ended or self._awaits or bool(self._commands) or len(self._output) > BUSY_BACKLOG
        interest = (0 if busy else READ) | (WRITE if self._output or self._commands else 0)
        if interest != self._interest:
            self._interest = interest
            self._vm.loop.modify(self._socket.fileno(), interest)

    def _keep_fds(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                self._fds.extend(struct.unpack(f"{len(data) // 4}i", data[: len(data) // 4 * 4]))
        while len(self._fds) > MAX_FDS:
            os.close(self._fds.pop(0))

    def _drop_fds(self) -> None:
        while self._fds:
            os.close(self._fds.pop())


def _decode(value: bytes) -> dict[str, Any]:
    try:
        message = msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise QmpError(f"Invalid JSON syntax: {error}") from error
    if not isinstance(message, dict):
        raise QmpError("QMP input must be a JSON object")
    return message


def _check(message: dict[str, Any]) -> None:
    if not isinstance(message.get("execute"), str):
        raise QmpError("QMP input must have the member 'execute', a string")
    unknown = set(message) - ENVELOPE_KEYS
    if unknown:
        raise QmpError(f"QMP input member '{min(unknown)[:80]}' is unexpected")


def _error(error: QmpError) -> dict[str, Any]:
    return {"error": {"class": error.error_class, "desc": str(error)}}
