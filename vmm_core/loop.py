"""The main thread's event loop: descriptors, timers and calls from other threads, on one epoll.

asyncio would do, but importing it costs more than the whole start path may (90 ms).
"""

from __future__ import annotations

import os
import select
from _thread import allocate_lock
from time import monotonic

from vmm_core import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
HANGUP = select.EPOLLHUP | select.EPOLLERR


class Timer:
    """A pending call; `cancel` may be called at any time, from the loop's thread."""

    __slots__ = ("callback", "deadline")

    def __init__(self, deadline: float, callback: Callable[[], None]) -> None:
        self.deadline = deadline
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class EventLoop:
    """Callbacks run on the thread that calls `run`; only `call_soon` and `stop` are safe from other threads."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._timers: list[Timer] = []
        self._pending: list[Callable[[], None]] = []
        self._lock = allocate_lock()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._running = True
        self.add(self._wake, READ, self._drain_wakeups)

    def add(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Call `callback(ready_events)` whenever `fd` is ready for `events` (level-triggered)."""
        self._epoll.register(fd, events)
        self._callbacks[fd] = callback

    def modify(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """Forget `fd`; call before closing it. Unknown descriptors are ignored."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(monotonic() + seconds, callback)
        self._timers.append(timer)
        return timer

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Run `callback` on the loop's thread, soon. Thread-safe."""
        with self._lock:
            self._pending.append(callback)
        os.eventfd_write(self._wake, 1)

    def stop(self) -> None:
        """Make `run` return after the current round. Thread-safe."""
        self._running = False
        os.eventfd_write(self._wake, 1)

    def run(self) -> None:
        while self._running:
            self.run_once()

    def run_once(self, limit: float | None = None) -> None:
        """Wait for one round of events, at most `limit` seconds (None: until something happens)."""
        for fd, events in self._epoll.poll(self._timeout(limit)):
            callback = self._callbacks.get(fd)
            if callback is not None:
                self._guard(callback, events)
        self._run_timers()

    def close(self) -> None:
        self._epoll.close()
        os.close(self._wake)

    def _timeout(self, limit: float | None) -> float:
        waits = [timer.deadline - monotonic() for timer in self._timers if timer.callback]
        if limit is not None:
            waits.append(limit)
        return max(0.0, min(waits)) if waits else -1

    def _run_timers(self) -> None:
        if not self._timers:
            return
        now = monotonic()
        due = [timer for timer in self._timers if timer.callback and timer.deadline <= now]
        self._timers = [timer for timer in self._timers if timer.callback and timer.deadline > now]
        for timer in due:
            callback, timer.callback = timer.callback, None
            if callback:
                self._guard(callback)

    def _drain_wakeups(self, _events: int) -> None:
        os.eventfd_read(self._wake)
        with self._lock:
            pending, self._pending = self._pending, []
        for callback in pending:
            self._guard(callback)

    def _guard(self, callback: Callable[..., None], *arguments: int) -> None:
        try:
            callback(*arguments)
        except Exception as error:  # one broken callback must not end the VM
            log.exception("event loop callback failed", error)
