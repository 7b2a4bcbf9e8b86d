"""Signals that end the VM: received on a descriptor in the event loop, so no handler runs in odd places (facts 1.2)."""

from __future__ import annotations

import os
import sys
from _signal import SIG_IGN, SIGHUP, SIGINT, SIGPIPE, SIGTERM, set_wakeup_fd, signal

from vmm_core.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm_core.loop import EventLoop

ENDING = (SIGTERM, SIGINT, SIGHUP)


def install(loop: EventLoop, on_signal: Callable[[int], None]) -> None:
    """Call `on_signal(number)` in the event loop for SIGTERM, SIGINT and SIGHUP; ignore SIGPIPE."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def readable(_events: int) -> None:
        for number in os.read(reader, 64):
            if number in ENDING:
                sys.stderr.write(f"Received kill signal, signal number: {number}\n")
                sys.stderr.flush()
                on_signal(number)

    loop.add(reader, READ, readable)
    set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in ENDING:
        signal(number, _noted)
    signal(SIGPIPE, SIG_IGN)


def _noted(_number: int, _frame: object) -> None:
    """The wakeup descriptor has told the event loop."""
