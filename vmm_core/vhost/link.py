"""The life of the connection between a device and its backend: arrival, greeting, loss, replacement, failure.

A backend is *lost* when its session ends for any reason; whoever supervises it then attaches a replacement, for which
calls wait, or says that there will be none: then the device has *failed*. Without a supervisor a loss is a failure.

Three locks, taken in this order: `lock` (held while talking to the backend, so possibly for seconds), `_serve_lock`
(guards the descriptors that the main loop polls) and `_state_lock`; nobody waits for a backend holding the latter two.
"""

from __future__ import annotations

import os
import select
from _thread import RLock, allocate_lock

from ipc.errors import PeerClosed, WireError
from ipc.fds import close_all
from vmm_core.vhost.channel import BackendChannel
from vmm_core.vhost.user import Refused, Session
from vmm_core.virtio.device import DeviceBroken

CLOSED = "the backend closed the connection"  # the reason of a loss that may be an orderly end
SHUT_LIMIT = 1.0  # seconds; who passes the turnstile holds it for microseconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")


class Unfit(WireError):
    """A backend that this device cannot use, and another of the same kind would not be better."""


class BackendLink:
    """At most one session at a time. `check(session)` raises Unfit for a backend that the device cannot use, and
    `restore(session)` brings a new one to where the last one was.

    Calls wait at most `timeout` seconds for a backend to arrive, and for each of its answers. `on_lost(reason)` is set
    by a supervisor; `on_ready()`, too, which runs when a backend has been greeted and brought up to date, and
    `on_unfit(reason)`. All may run on any thread, with locks held.
    """

    def __init__(
        self,
        name: str,
        *,
        dirty_log: bool,
        timeout: float,
        check: Callable[[Session], None],
        restore: Callable[[Session], None],
        on_config_change: Callable[[], None],
        on_broken: Callable[[str], None],
    ) -> None:
        self.lock = RLock()
        self._name = name
        self._dirty_log = dirty_log
        self._timeout = timeout
        self._check = check
        self._restore = restore
        self._on_config_change = on_config_change
        self._on_broken = on_broken
        self.on_lost: Callable[[str], None] | None = None
        self.on_ready: Callable[[], None] | None = None
        self.on_unfit: Callable[[str], None] | None = None
        self._serve_lock = allocate_lock()
        self._state_lock = allocate_lock()
        self._arrival = allocate_lock()  # a turnstile: shut until there is a backend or a reason to give up waiting
        self._arrival.acquire()
        self._shut = True  # not `_arrival.locked()`: who passes the turnstile holds it for a moment
        self._incoming = -1
        self._is_stopped: Callable[[], bool] = bool  # of the incoming one
        self._reason = ""
        self._lost = False  # and a replacement is expected
        self._closed = False
        self._session: Session | None = None
        self._candidate: Session | None = None  # to replace `_session`
        self._buried: Session | None = None  # the last one that was lost; it may still be `_session`
        self._channel: BackendChannel | None = None
        self._poller = select.epoll()
        self._error_fd = -1
        self.greeted = False  # some backend has come this far

    def attach(self, sock_fd: int, is_stopped: Callable[[], bool]) -> None:
        """Take a connected socket; never waits. Replaces an earlier backend."""
        with self._state_lock:
            surplus = sock_fd
            if not self._closed:
                surplus, self._incoming = self._incoming, sock_fd
                self._is_stopped = is_stopped
                self._reason = ""
                self._lost = False
                self._arrived()
        close_all((surplus,))

    def lose(self, reason: str, session: Session | None = None) -> bool:
        """The backend (of that session) is gone or unusable; returns whether to wait for another. Never waits."""
        with self._state_lock:
            if self._reason or self._closed:
                return False
            if self._lost or (session is not None and self._is_history(session)):
                return True  # that is known, or has been seen to
            if self.on_lost is not None:
                self._lost = True
                self._buried = self._session
                if not self._shut:
                    self._shut = self._arrival.acquire(timeout=SHUT_LIMIT)
                surplus, self._incoming = self._incoming, -1
                close_all((surplus,))
                self._abort()
        if self.on_lost is None:
            self.fail(reason)
            return False
        self.on_lost(reason)
        return True

    def _is_history(self, session: Session) -> bool:
        """Whether a session has been lost before, or another backend is there already."""
        return session is not self._session or session is self._buried or self._incoming >= 0

    def fail(self, reason: str) -> None:
        """Give the backend up: end every wait for it, report it once. Never waits."""
        with self._state_lock:
            if self._reason or self._closed:
                return
            self._reason = reason
            self._lost = False
            self._arrived()
            self._abort()
        self._on_broken(reason)

    def close(self) -> None:
        """Free everything, after ending the waits of other threads."""
        with self._state_lock:
            if self._closed:
                return
            self._closed = True
            self._reason = self._reason or "the device is closed"
            self._arrived()
            self._abort()
        with self.lock:
            self._drop()
            with self._serve_lock:
                close_all((self._incoming, self._error_fd))
                self._poller.close()

    def fileno(self) -> int:
        """Readable when `serve` has something to do; the same descriptor for the link's whole life."""
        return self._poller.fileno()

    def serve(self) -> None:
        """Deal with the backend's requests, its end, and rings that it reports as broken. Never waits."""
        changed, failure = False, ""
        with self._serve_lock:
            session = self._session  # whose descriptors these are, also when its successor is waiting already
            for fd, _ in [] if self._closed else self._poller.poll(0):
                if fd == self._error_fd:
                    self._poller.unregister(fd)  # never read: the backend has it, too, and could make that block
                    self._on_broken("the backend reports that the driver broke a ring")
                elif self._channel is not None and fd == self._channel.fileno():
                    changed, failure = self._serve_channel(self._channel, failure)
                else:
                    self._poller.unregister(fd)
                    failure = failure or CLOSED
        if failure:
            self.lose(failure, session)
        elif changed:
            self._on_config_change()

    def established(self) -> Session | None:
        """The session, if there is one in working order; never waits. Call with `lock` held, as all below."""
        with self._state_lock:
            return self._session if not self._reason and not self._lost and self._incoming < 0 else None

    @property
    def is_attached(self) -> bool:
        """Whether there is a backend, greeted or not, that is not lost. From any thread."""
        with self._state_lock:
            return not self._reason and not self._lost and (self._session is not None or self._incoming >= 0)

    def ready(self) -> Session:
        """Return the session, waiting for the backend and greeting it if it is new; DeviceBroken if there is none."""
        while True:
            if self._arrival.acquire(timeout=self._timeout):
                self._arrival.release()
            elif self._lost:
                raise DeviceBroken(f"no other backend came within {self._timeout:g} s")
            else:
                self.fail(f"no backend came within {self._timeout:g} s")
            with self._state_lock:
                incoming, self._incoming, is_stopped = self._incoming, -1, self._is_stopped
            if incoming >= 0:
                self._greet(incoming, is_stopped)
            session = self.established()
            if session is not None:
                return session
            with self._state_lock:
                if self._reason or not (self._lost or self._incoming >= 0):
                    raise DeviceBroken(self._reason or "the backend was replaced")

    def new_error_fd(self) -> int:
        """An eventfd for rings that are about to start, watched by `serve`; one report each."""
        with self._serve_lock:
            close_all((self._error_fd,))
            self._error_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._poller.register(self._error_fd, select.EPOLLIN)
            return self._error_fd

    def talk(self, what: Callable[[Session], T]) -> T:
        """Run `what(session)`, again if the backend is lost meanwhile and replaced; else DeviceBroken.

        A backend that says no stays, and is not asked a second time: the driver may reset the device and do better.
        """
        while True:
            session = self.ready()
            try:
                return what(session)
            except Refused as error:
                self._on_broken(str(error))
                raise DeviceBroken(str(error)) from error
            except WireError as error:
                if not self.lose(_reason(error), session):
                    raise DeviceBroken(self._reason) from error

    def _abort(self) -> None:
        for session in (self._session, self._candidate):
            if session is not None:
                session.abort()

    def _arrived(self) -> None:
        if self._shut:
            self._shut = False
            self._arrival.release()

    def replace(
        self,
        fd: int,
        is_stopped: Callable[[], bool],
        hand_over: Callable[[Session, Session, Callable[[], None]], None],
    ) -> None:
        """Put the backend at `fd` in the place of one that serves, by `hand_over(old, new, switch)`, with `lock` held.

        `switch()` makes it the backend, so that what fails later is its loss; WireError when the old one is lost.

        WireError, also from `hand_over`: the old one serves on, or has been lost in the ordinary way.
        """
        session, channel, peer_fd = self._open(fd, is_stopped)
        self._candidate = session
        try:
            session.handshake(peer_fd)
            self._check(session)
            with self.lock:
                old = self.ready()  # nobody may have needed it yet
                hand_over(old, session, lambda: self._switch(old, session, channel))
        except BaseException as error:
            if self._session is session:
                self.lose(str(error), session)
            else:
                session.close()
                channel.close()
            raise
        finally:
            self._candidate = None
            close_all((peer_fd,))

    def _switch(self, old: Session, new: Session, channel: BackendChannel) -> None:
        with self._serve_lock:
            with self._state_lock:
                if self._session is not old or self._lost or self._reason or self._incoming >= 0:
                    raise WireError("the old backend was lost meanwhile")
                before = self._channel
                self._session, self._channel = new, channel
            old.close()  # within `_serve_lock`: nobody may find its end, and take it for the new one's
            if before is not None:
                before.close()
        self._watch(new, channel)

    def _open(self, fd: int, is_stopped: Callable[[], bool]) -> tuple[Session, BackendChannel, int]:
        """A session over `fd` before its first message, our end of its channel and the other one."""
        session = Session(fd, dirty_log=self._dirty_log, timeout=self._timeout, is_stopped=is_stopped)
        channel, peer_fd = BackendChannel.create()
        return session, channel, peer_fd

    def _greet(self, fd: int, is_stopped: Callable[[], bool]) -> None:
        self._drop()
        session, channel, peer_fd = self._open(fd, is_stopped)
        with self._state_lock:
            self._session, self._channel = session, channel
            if self._reason or self._lost:
                session.abort()  # given up between arrival and here
        try:
            session.handshake(peer_fd)
            self._check(session)
            self._restore(session)
        except (Unfit, Refused) as error:
            self.fail(str(error))
            if self.on_unfit is not None:
                self.on_unfit(str(error))
            return
        except WireError as error:
            self.lose(_reason(error), session)
            return
        finally:
            close_all((peer_fd,))
        self.greeted = True
        self._watch(session, channel)
        if self.on_ready is not None:
            self.on_ready()

    def _watch(self, session: Session, channel: BackendChannel) -> None:
        with self._serve_lock:
            self._poller.register(channel.fileno(), select.EPOLLIN)
            self._poller.register(session.fileno(), select.EPOLLRDHUP)

    def _drop(self) -> None:
        with self._serve_lock, self._state_lock:
            session, self._session = self._session, None
            channel, self._channel = self._channel, None
            for end in (session, channel):
                if end is not None:
                    end.close()  # leaves the poller with it: nobody else has this descriptor

    def _serve_channel(self, channel: BackendChannel, failure: str) -> tuple[bool, str]:
        try:
            return channel.serve() and not self._reason, failure
        except PeerClosed:
            self._poller.unregister(channel.fileno())  # a backend that has nothing to tell may do that
        except WireError as error:
            self._poller.unregister(channel.fileno())
            failure = failure or str(error)
        return False, failure


def _reason(error: WireError) -> str:
    return CLOSED if isinstance(error, PeerClosed) else str(error)
