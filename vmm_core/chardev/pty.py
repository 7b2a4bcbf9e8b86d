"""The `pty` chardev: a pseudo-terminal, whose name is logged and shown by `query-chardev`."""

from __future__ import annotations

import os
import select
import termios

from vmm_core import log
from vmm_core.chardev.base import Chardev
from vmm_core.chardev.terminal import CC, IFLAG, LFLAG, OFLAG
from vmm_core.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm_core.config.records import ChardevConfig
    from vmm_core.loop import EventLoop
    from vmm_core.serial import SerialPort

LOOK_SECONDS = 0.2  # between looks whether a client has come: the kernel tells of its leaving only


class PtyChardev(Chardev):
    """A client may come, go and come again. While nobody has the terminal open, the guest's output is discarded:
    kept, it would fill the terminal, and the guest's programs would wait for a reader that may never come."""

    def __init__(self, config: ChardevConfig, loop: EventLoop) -> None:
        super().__init__(config, loop)
        try:
            self._main, client = os.openpty()
        except OSError as error:
            raise VmmError(f"chardev {config.id}: no pseudo-terminal: {error.strerror}") from error
        mode = termios.tcgetattr(client)
        mode[IFLAG] = mode[OFLAG] = mode[LFLAG] = 0
        mode[CC][termios.VMIN] = 1
        termios.tcsetattr(client, termios.TCSANOW, mode)
        os.set_blocking(self._main, False)
        self.path = os.ttyname(client)
        os.close(client)
        self._closed = False
        log.info(f"chardev {config.id}: redirected to {self.path}")

    @property
    def filename(self) -> str:
        return f"pty:{self.path}"

    def attach(self, port: SerialPort) -> None:
        super().attach(port)
        self._look()

    def close(self) -> None:
        self._closed = True
        super().close()
        os.close(self._main)

    def _look(self) -> None:
        """Use the terminal once somebody has it open."""
        if self._closed:
            return
        if self._has_client():
            self._connect(self._main, self._main)
        else:
            self._loop.call_later(LOOK_SECONDS, self._look)

    def _has_client(self) -> bool:
        poller = select.poll()
        poller.register(self._main, 0)
        return not poller.poll(0)

    def _hung_up(self) -> None:
        """The client left before the guest took its last words: they are dropped, the next client starts afresh."""
        self._end_of_input()

    def _end_of_input(self) -> None:
        self._disconnect()
        self._look()
