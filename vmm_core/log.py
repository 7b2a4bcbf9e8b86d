"""The VMM's log: StratoVirt's line format, without the import cost of `logging` (15-25 ms).

Line: `YYYY-MM-DDThh:mm:ss.nnnnnnnnn: [pid][tid][file:line]:LEVEL: message` (facts, option `-D`).
"""

from __future__ import annotations

import os
import sys
import time
from _thread import get_native_id

LEVELS = ("TRACE", "DEBUG", "INFO", "WARN", "ERROR")
TRACE, DEBUG, INFO, WARN, ERROR = range(5)

_threshold = INFO
_fd = 2


def configure(fd: int, level_name: str | None) -> None:
    """Send lines to `fd`; `level_name` is STRATOVIRT_LOG_LEVEL's value (unknown or absent: info)."""
    global _fd, _threshold
    _fd = fd
    name = (level_name or "info").upper()
    _threshold = LEVELS.index(name) if name in LEVELS else INFO


def enabled(level: int) -> bool:
    return level >= _threshold


def write(level: int, message: str, depth: int = 1) -> None:
    """Write one line for the caller `depth` frames up; control characters are escaped, so one call is one line."""
    if level < _threshold:
        return
    frame = sys._getframe(depth)
    now = time.time_ns()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(now // 1_000_000_000))
    place = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
    text = message.encode("unicode_escape", "replace").decode("ascii") if not message.isprintable() else message
    line = f"{stamp}.{now % 1_000_000_000:09d}: [{os.getpid()}][{get_native_id()}][{place}]:{LEVELS[level]}: {text}\n"
    try:
        os.write(_fd, line.encode("utf-8", "replace"))
    except OSError:
        pass  # a full disk or a closed pipe must not end the VM


def debug(message: str) -> None:
    write(DEBUG, message, 2)


def info(message: str) -> None:
    write(INFO, message, 2)


def warn(message: str) -> None:
    write(WARN, message, 2)


def error(message: str) -> None:
    write(ERROR, message, 2)


def exception(message: str, failure: BaseException) -> None:
    """Log an unexpected exception with its innermost place, in one line."""
    trace = failure.__traceback__
    place = ""
    while trace is not None:
        place = f" at {os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"
        trace = trace.tb_next
    write(ERROR, f"{message}: {type(failure).__name__}: {failure}{place}", 2)
