"""One QMP client: its commands in, answers and events out, every buffer bounded."""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING, Any

import msgspec

from vmm_core import log
from vmm_core.errors import VmmError, describe
from vmm_core.loop import READ, WRITE
from vmm_core.qmp.errors import QmpError
from vmm_core.qmp.registry import Context, execute
from vmm_core.qmp.stream import JsonStream, StreamError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm_core.vm import Vm

MAX_BACKLOG = 1 << 20  # bytes of answers and events that a client has not read
MAX_FDS = 16
READ_SIZE = 16 << 10
ENVELOPE_KEYS = {"execute", "arguments", "id"}


class Client:
    """Serves a connected socket until it closes, floods, or stops reading for too long; then calls `on_gone`."""

    def __init__(self, sock: socket.socket, vm: Vm, on_gone: Callable[[], None]) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._vm = vm
        self._on_gone = on_gone
        self._stream = JsonStream()
        self._output = bytearray()
        self._fds: list[int] = []
        self._open = True
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
        if self._open and events & ~WRITE:
            self._receive()

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
        if not data or flags & socket.MSG_CTRUNC:
            self.close()
            return
        try:
            values = self._stream.feed(data)
        except StreamError as error:
            self._send_error(QmpError(str(error)), None)
            self.close()
            return
        for value in values:
            if self._open:
                self._handle(value)

    def _handle(self, value: bytes) -> None:
        if not value.strip():
            return
        identity = None
        try:
            message = self._parse(value)
            identity = message.get("id")
            result = execute(Context(self._vm, self), message["execute"], message.get("arguments", {}))
        except QmpError as error:
            self._send_error(error, identity)
        except VmmError as error:
            self._send_error(QmpError(describe(error).replace("\n", " ")), identity)
        else:
            self._send_answer({"return": result}, identity)

    def _parse(self, value: bytes) -> dict[str, Any]:
        try:
            message = msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise QmpError(f"Invalid JSON syntax: {error}") from error
        if not isinstance(message, dict) or not isinstance(message.get("execute"), str):
            raise QmpError("QMP input must be a JSON object with the member 'execute'")
        unknown = set(message) - ENVELOPE_KEYS
        if unknown:
            raise QmpError(f"QMP input member '{min(unknown)[:80]}' is unexpected")
        return message

    def _send_answer(self, answer: dict[str, Any], identity: object) -> None:
        if identity is not None:
            answer["id"] = identity
        self.send(answer)

    def _send_error(self, error: QmpError, identity: object) -> None:
        self._send_answer({"error": {"class": error.error_class, "desc": str(error)}}, identity)

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
        self._watch(READ | (WRITE if self._output else 0))

    def _watch(self, interest: int) -> None:
        """A client that does not read its answers is not asked for more commands."""
        if len(self._output) > MAX_BACKLOG // 4:
            interest = WRITE
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
