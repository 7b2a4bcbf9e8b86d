"""Character devices of the host: where a guest's serial port goes to (user's document, "chardev Configuration")."""

from __future__ import annotations

import os

from vmm_core.loop import HANGUP, READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm_core.config.records import ChardevConfig
    from vmm_core.loop import EventLoop
    from vmm_core.serial import SerialPort

CHUNK = 256  # bytes of input read at once; the guest's FIFO takes 16


class Chardev:
    """Connects a serial port to descriptors. While input waits here for room in the guest, its source is not read."""

    def __init__(self, config: ChardevConfig, loop: EventLoop) -> None:
        self.id = config.id
        self.config = config
        self._loop = loop
        self._port: SerialPort | None = None
        self._input = -1
        self._pollable = True
        self._scheduled = False
        self._pending = b""

    @property
    def filename(self) -> str:
        """What `query-chardev` shows, as QEMU writes it."""
        return self.config.kind

    def attach(self, port: SerialPort) -> None:
        """Give `port` the output and start reading input."""
        self._port = port
        port.on_space(self._deliver)

    def close(self) -> None:
        """Let go of everything; the guest's further output is discarded."""
        self._disconnect()

    def _connect(self, read_fd: int, write_fd: int) -> None:
        """Use these descriptors from now on; -1: none."""
        self._input = read_fd
        if self._port is not None:
            self._port.set_output(write_fd)
        self._pollable = True
        if read_fd >= 0:
            try:
                self._loop.add(read_fd, READ, self._readable)
            except PermissionError:  # a regular file or /dev/null: always ready, which epoll refuses to say
                self._pollable = False
                self._read_soon()

    def _disconnect(self) -> None:
        if self._port is not None:
            self._port.set_output(-1)
        if self._input >= 0:
            self._loop.remove(self._input)
        self._input = -1
        self._pending = b""

    def _readable(self, events: int) -> None:
        if self._input < 0:
            return
        if self._pending:
            if events & HANGUP:
                self._loop.remove(self._input)  # it would be told again and again
                self._hung_up()
            return
        try:
            data = os.read(self._input, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end_of_input()
            return
        self._pending += self._filter(data)
        self._deliver()

    def _filter(self, data: bytes) -> bytes:
        """What of the input is for the guest."""
        return data

    def _hung_up(self) -> None:
        """The source is gone while input of it still waits; what it has left is read when the guest has room."""

    def _end_of_input(self) -> None:
        """The source of input is gone; output may go on."""
        self._loop.remove(self._input)
        self._input = -1

    def _deliver(self) -> None:
        """Offer what waits; read on only when all of it was taken."""
        if self._port is None:
            return
        if self._pending:
            self._pending = self._pending[self._port.receive(self._pending) :]
        if self._input < 0:
            return
        if not self._pollable:
            if not self._pending:
                self._read_soon()
            return
        self._loop.remove(self._input)
        self._loop.add(self._input, 0 if self._pending else READ, self._readable)  # 0: still tells of a hang-up

    def _read_soon(self) -> None:
        """For a source that epoll does not watch: once a round, however often it is asked for."""

        def read() -> None:
            self._scheduled = False
            self._readable(READ)

        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(read)
