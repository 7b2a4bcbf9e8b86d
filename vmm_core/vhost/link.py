"""The life of the connection between a device and its backend: arrival, greeting, failure, replacement.

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
from vmm_core.vhost.user import Session
from vmm_core.virtio.device import DeviceBroken

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")


class BackendLink:
    """At most one session at a time. `check(session)` raises WireError for a backend that the device cannot use.

    Calls wait at most `timeout` seconds for a backend to arrive, and for each of its answers.
    """

    def __init__(
        self,
        name: str,
        *,
        dirty_log: bool,
        timeout: float,
        check: Callable[[Session], None],
        on_config_change: Callable[[], None],
        on_broken: Callable[[str], None],
    ) -> None:
        self.lock = RLock()
        self._name = name
        self._dirty_log = dirty_log
        self._timeout = timeout
        self._check = check
        self._on_config_change = on_config_change
        self._on_broken = on_broken
        self._serve_lock = allocate_lock()
        self._state_lock = allocate_lock()
        self._arrival = allocate_lock()  # a turnstile: shut until there is a backend or a reason to give up waiting
        self._arrival.acquire()
        self._shut = True  # not `_arrival.locked()`: who passes the turnstile holds it for a moment
        self._incoming = -1
        self._reason = ""
        self._closed = False
        self._session: Session | None = None
        self._channel: BackendChannel | None = None
        self._poller = select.epoll()
        self._error_fd = -1
        self.greeted = False  # some backend has come this far

    def attach(self, sock_fd: int) -> None:
        """Take a connected socket; never waits. Replaces an earlier backend."""
        with self._state_lock:
            surplus = sock_fd
            if not self._closed:
                surplus, self._incoming = self._incoming, sock_fd
                self._reason = ""
                self._arrived()
        close_all((surplus,))

    def fail(self, reason: str) -> None:
        """Give the backend up: end every wait for it, report it once. Never waits."""
        with self._state_lock:
            if self._reason or self._closed:
                return
            self._reason = reason
            self._arrived()
            if self._session is not None:
                self._session.abort()
        self._on_broken(reason)

    def close(self) -> None:
        """Free everything, after ending the waits of other threads."""
        with self._state_lock:
            if self._closed:
                return
            self._closed = True
            self._reason = self._reason or "the device is closed"
            self._arrived()
            if self._session is not None:
                self._session.abort()
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
            for fd, _ in [] if self._closed else self._poller.poll(0):
                if fd == self._error_fd:
                    self._poller.unregister(fd)  # never read: the backend has it, too, and could make that block
                    self._on_broken("the backend reports that the driver broke a ring")
                elif self._channel is not None and fd == self._channel.fileno():
                    changed, failure = self._serve_channel(self._channel, failure)
                else:
                    self._poller.unregister(fd)
                    failure = failure or "the backend closed the connection"
        if failure:
            self.fail(failure)
        elif changed:
            self._on_config_change()

    def established(self) -> Session | None:
        """The session, if there is one in working order; never waits. Call with `lock` held, as all below."""
        with self._state_lock:
            return self._session if not self._reason and self._incoming < 0 else None

    def ready(self) -> Session:
        """Return the session, waiting for the backend and greeting it if it is new; DeviceBroken if there is none."""
        if self._arrival.acquire(timeout=self._timeout):
            self._arrival.release()
        else:
            self.fail(f"no backend came within {self._timeout:g} s")
        with self._state_lock:
            incoming, self._incoming = self._incoming, -1
        if incoming >= 0:
            self._greet(incoming)
        session = self.established()
        if session is None:
            raise DeviceBroken(self._reason or "the backend was replaced")
        return session

    def new_error_fd(self) -> int:
        """An eventfd for rings that are about to start, watched by `serve`; one report each."""
        with self._serve_lock:
            close_all((self._error_fd,))
            self._error_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._poller.register(self._error_fd, select.EPOLLIN)
            return self._error_fd

    def talk(self, what: Callable[[Session], T]) -> T:
        """Run `what(session)`; whatever goes wrong on the wire costs the backend: DeviceBroken."""
        session = self.ready()
        try:
            return what(session)
        except WireError as error:
            self.fail(str(error))
            raise DeviceBroken(self._reason) from error

    def _arrived(self) -> None:
        if self._shut:
            self._shut = False
            self._arrival.release()

    def _greet(self, fd: int) -> None:
        self._drop()
        session = Session(fd, dirty_log=self._dirty_log, timeout=self._timeout)
        channel, peer_fd = BackendChannel.create()
        with self._state_lock:
            self._session, self._channel = session, channel
            if self._reason:
                session.abort()  # given up between arrival and here
        try:
            session.handshake(peer_fd)
            self._check(session)
        except WireError as error:
            self.fail(str(error))
            return
        finally:
            close_all((peer_fd,))
        self.greeted = True
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
