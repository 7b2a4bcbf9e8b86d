"""The `pty` chardev: a pseudo-terminal, whose name is logged and shown by `query-chardev`."""

from __future__ import annotations

import os
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


class PtyChardev(Chardev):
    """Both ends stay open here, so that a client may come, go and come again."""

    def __init__(self, config: ChardevConfig, loop: EventLoop) -> None:
        super().__init__(config, loop)
        try:
            self._main, self._client = os.openpty()
        except OSError as error:
            raise VmmError(f"chardev {config.id}: no pseudo-terminal: {error.strerror}") from error
        mode = termios.tcgetattr(self._client)
        mode[IFLAG] = mode[OFLAG] = mode[LFLAG] = 0
        mode[CC][termios.VMIN] = 1
        termios.tcsetattr(self._client, termios.TCSANOW, mode)
        os.set_blocking(self._main, False)
        self.path = os.ttyname(self._client)
        log.info(f"chardev {config.id}: redirected to {self.path}")

    @property
    def filename(self) -> str:
        return f"pty:{self.path}"

    def attach(self, port: SerialPort) -> None:
        super().attach(port)
        self._connect(self._main, self._main)

    def close(self) -> None:
        super().close()
        os.close(self._main)
        os.close(self._client)
