"""`-D`: the log in a file, mode 0640, appended to; rotated at 100 MiB or when the day changes, seven old ones kept."""

from __future__ import annotations

import os
import time

from vmm_core import log
from vmm_core.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm_core.loop import EventLoop

MAX_SIZE = 100 << 20
KEEP = 7
CHECK_SECONDS = 60.0


class LogFile:
    """Opens the file and points the log at it; `watch` rotates it from the event loop."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = self._open()
        self._day = self._last_written()
        log.configure(self._fd, os.environ.get("STRATOVIRT_LOG_LEVEL"))

    def watch(self, loop: EventLoop) -> None:
        """Look once a minute whether it is time to rotate."""

        def check() -> None:
            self.rotate_if_due()
            loop.call_later(CHECK_SECONDS, check)

        loop.call_later(CHECK_SECONDS, check)

    def rotate_if_due(self) -> bool:
        """Rotate when the file is full or yesterday's; returns whether it was."""
        today = time.localtime().tm_yday
        if os.fstat(self._fd).st_size < MAX_SIZE and today == self._day:
            return False
        self._day = today
        try:
            for number in range(KEEP - 1, 0, -1):
                if os.path.exists(f"{self._path}.{number}"):
                    os.rename(f"{self._path}.{number}", f"{self._path}.{number + 1}")
            os.rename(self._path, f"{self._path}.1")
            fresh = self._open()
        except (OSError, VmmError) as error:
            log.warn(f"-D {self._path}: cannot be rotated: {error}")
            return False
        os.dup2(fresh, self._fd, inheritable=False)
        os.close(fresh)
        return True

    def _last_written(self) -> int:
        """The day of the file's last line: an old file is rotated like one of today's that has become old."""
        status = os.fstat(self._fd)
        return time.localtime(status.st_mtime if status.st_size else None).tm_yday

    def _open(self) -> int:
        try:
            return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise VmmError(f"-D {self._path}: {error.strerror}") from error
