"""Noticing a backend that hangs, without waking anybody while the device is idle.

An idle device is watched through its doorbells alone: the next kick wakes this process once. From then on comes a look
a second at what the backend owes: a doorbell not taken, a request in a ring or in the inflight region. If that has not
changed since the last look the backend has to answer a question; a slow disk does not keep it from that, being stopped
or stuck does.

While somebody waits for its answer already, nobody can ask: a stopped one is then noticed there (`vhost/user.py`).
Nor is one asked that has a command to obey, as it may have to finish its requests first; that has a limit of its own.
"""

from __future__ import annotations

import select
from _thread import start_new_thread

from vmm_core.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm_core.loop import EventLoop, Timer
    from vmm_core.vhost.device import VhostUserDevice

PERIOD = 1.0  # seconds between looks at a busy device
ANSWER_LIMIT = 2.0  # seconds for the answer


class Heartbeat:
    """Watches one device; for the event loop's thread. What is found goes through `VhostUserDevice.ping`.

    `is_busy()`: the backend has a command to obey.
    """

    def __init__(self, loop: EventLoop, front: VhostUserDevice, is_busy: Callable[[], bool]) -> None:
        self._loop = loop
        self._front = front
        self._is_busy = is_busy
        self._watched: list[int] = []
        self._timer: Timer | None = None
        self._last = b""
        self._closed = False

    def arm(self) -> None:
        """The driver has started the rings."""
        if not self._closed and self._timer is None:
            self._watch_doorbells()

    def close(self) -> None:
        self._closed = True
        self._forget_doorbells()
        if self._timer is not None:
            self._timer.cancel()

    def _watch_doorbells(self) -> None:
        self._forget_doorbells()
        self._last = b""
        for fd in self._front.kick_fds():
            self._loop.add(fd, READ | select.EPOLLONESHOT, self._kicked)
            self._watched.append(fd)

    def _forget_doorbells(self) -> None:
        for fd in self._watched:
            self._loop.remove(fd)
        self._watched = []

    def _kicked(self, _events: int) -> None:
        self._forget_doorbells()
        self._timer = self._loop.call_later(PERIOD, self._look)

    def _look(self) -> None:
        self._timer = None
        now, last = self._front.outstanding(), self._last
        if not now:
            self._watch_doorbells()
            return
        self._last = now
        self._timer = self._loop.call_later(PERIOD, self._look)
        if now == last and not self._is_busy():
            start_new_thread(self._front.ping, (ANSWER_LIMIT,))
