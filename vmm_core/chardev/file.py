"""The `file` chardev: the guest's output in a file. There is no input."""

from __future__ import annotations

import os

from vmm_core.chardev.base import Chardev
from vmm_core.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm_core.config.records import ChardevConfig
    from vmm_core.loop import EventLoop
    from vmm_core.serial import SerialPort


class FileChardev(Chardev):
    def __init__(self, config: ChardevConfig, loop: EventLoop) -> None:
        super().__init__(config, loop)
        try:
            self._file = os.open(str(config.path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise VmmError(f"chardev {config.id}: {config.path}: {error.strerror}") from error

    @property
    def filename(self) -> str:
        return f"file:{self.config.path}"

    def attach(self, port: SerialPort) -> None:
        super().attach(port)
        self._connect(-1, self._file)

    def close(self) -> None:
        super().close()
        os.close(self._file)
