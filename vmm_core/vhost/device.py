"""A virtio device whose back half is another process behind a vhost-user socket, our own or a foreign one.

Transports call from vCPU threads, the main loop serves `channel_fd`. A call waits for the backend at most `timeout`
seconds per answer (draining a ring: `drain_timeout`). A backend that dies, lies or is too slow is lost. With a
supervisor (`supervise`) calls then wait for a replacement, which is brought to where the lost one was, as one
transaction; without one, or when it gives up, the loss costs DeviceBroken and one `on_broken`, until `attach`.
"""

from __future__ import annotations

from time import monotonic

from ipc import vhost_user as wire
from ipc.errors import WireError
from vmm_core import log
from vmm_core.vhost.link import BackendLink, Unfit
from vmm_core.vhost.ringset import RingSet
from vmm_core.vhost.user import DRAIN_TIMEOUT, REPLY_TIMEOUT, Refused, Session
from vmm_core.virtio.device import DRIVER_OK, F_VERSION_1, ID_BLOCK, VirtioDevice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vmm_core.memory.table import RamRegion
    from vmm_core.vhost.dirty_log import DirtyLog
    from vmm_core.virtio.device import QueueSetup

CONFIG_SIZES = {1: 12, ID_BLOCK: 60}  # bytes of configuration space to ask for: backends refuse more than they have
BLK_NUM_QUEUES = slice(34, 36)  # in virtio-blk's configuration the backend says its own number, not this device's

MAX_WARNINGS = 10  # log lines that a guest can cause


class VhostUserDevice(VirtioDevice):
    """The front half of one vhost-user device; it may exist long before its backend: calls wait for `attach`.

    `wanted_features` bounds what the guest is offered. With `needs_dirty_log` the backend must log there every write to
    guest memory. `on_config_change` runs on the thread of `on_channel_readable`; `on_broken(reason)` on any thread,
    possibly with locks held, so that neither may call back into the device.
    """

    def __init__(
        self,
        name: str,
        virtio_id: int,
        queue_sizes: tuple[int, ...],
        memory: Sequence[RamRegion],
        *,
        needs_dirty_log: DirtyLog | None,
        wanted_features: int,
        on_config_change: Callable[[], None],
        on_broken: Callable[[str], None],
        timeout: float = REPLY_TIMEOUT,
        drain_timeout: float = DRAIN_TIMEOUT,
    ) -> None:
        self.name = name
        self.virtio_id = virtio_id
        self.queue_sizes = queue_sizes
        self._dirty_log = needs_dirty_log
        self._wanted = wanted_features & ~wire.VHOST_FEATURES
        self._on_config_change = on_config_change
        self._drain_timeout = drain_timeout
        self._link = BackendLink(
            name,
            dirty_log=needs_dirty_log is not None,
            timeout=timeout,
            check=self._check_offer,
            restore=self._restore,
            on_config_change=self._config_changed,
            on_broken=on_broken,
        )
        self._config_size = CONFIG_SIZES.get(virtio_id, 0)
        self._config: bytes | None = None
        self._config_changes = self._config_seen = 0
        self._warnings_left = MAX_WARNINGS
        self._rings = RingSet(memory, needs_dirty_log)
        self._offered = 0  # to the driver, so a replacement must offer it, too
        self._driver_features: int | None = None  # None: not chosen yet
        self._written: dict[int, bytes] = {}  # the driver's successful writes to configuration space
        self._status = 0
        self._on_active: Callable[[], object] = int  # does nothing

    def supervise(
        self,
        *,
        on_lost: Callable[[str], None],
        on_unfit: Callable[[str], None],
        on_ready: Callable[[], None],
        on_active: Callable[[], None],
    ) -> None:
        """From now on somebody sees to replacements. After `on_lost(reason)` calls wait for `attach` or `fail`.

        `on_unfit(reason)`: the device has failed, as no such backend can serve it; `on_ready`: one has come into
        service; `on_active`: a driver has started the rings. All may run on any thread with locks held.
        """
        self._link.on_lost, self._link.on_unfit, self._link.on_ready = on_lost, on_unfit, on_ready
        self._on_active = on_active

    def attach(self, sock_fd: int, is_stopped: Callable[[], bool] = bool) -> None:
        """Take a connected vhost-user socket; never waits. Replaces an earlier backend. From any thread.

        `is_stopped()` may run on any thread, when an answer is late: whether there is no point in waiting for it.
        """
        self._link.attach(sock_fd, is_stopped)

    def prepare(self) -> None:
        """Wait for the backend and greet it now instead of at the guest's first access; DeviceBroken says why not."""
        with self._link.lock:
            self._link.ready()

    def fail(self, reason: str) -> None:
        """The backend is dead or unwanted: end every wait, lose the device. Never waits. From any thread."""
        self._link.fail(reason)

    def lose(self, reason: str) -> None:
        """The backend is dead or must be replaced: end every wait for its answers. Never waits. From any thread."""
        self._link.lose(reason)

    @property
    def is_active(self) -> bool:
        """Whether a driver uses the device."""
        return bool(self._rings.queues)

    def kick_fds(self) -> list[int]:
        """The doorbells of the rings in use."""
        return [queue.kick_fd for queue in list(self._rings.queues)]

    def outstanding(self) -> bytes:
        """What the backend has still to do, as a picture that changes when it does something; empty: nothing."""
        try:
            return self._rings.outstanding(self._driver_features or 0)
        except (OSError, ValueError):
            return b""  # reset by the driver at this moment

    def replace(
        self,
        sock_fd: int,
        take_over: Callable[[Callable[[], None]], None],
        is_stopped: Callable[[], bool] = bool,
    ) -> int:
        """Rolling upgrade: let another backend go on where this one is stopped; returns the blackout in microseconds.

        `take_over(switch)` has to call `switch()`, which makes the other one the device's backend, or to raise
        WireError, as `switch` does when the old one is lost already. WireError: it cannot, and the old one serves on
        (or has been lost meanwhile, as it may be at any time).
        """
        blackout = 0.0

        def hand_over(old: Session, new: Session, switch: Callable[[], None]) -> None:
            nonlocal blackout
            self._bring_driver(new)
            self._send_status(new, self._status)
            new.synchronize()
            start = monotonic()
            try:
                self._rings.hand_over(
                    old,
                    new,
                    self._driver_features or 0,
                    self._link.new_error_fd,
                    self._drain_timeout,
                    lambda: take_over(switch),
                )
            except WireError as error:
                if self._rings.interrupted:
                    self._link.lose(str(error), old)
                raise
            blackout = monotonic() - start
            self._config = None

        self._link.replace(sock_fd, is_stopped, hand_over)
        return int(blackout * 1e6)

    def nudge(self) -> None:
        """Kick and call the rings: somebody may have taken a doorbell that was meant for another. From any thread."""
        self._rings.nudge()

    def describe(self) -> dict[str, object]:
        """What was negotiated and where the rings stand; never waits, asks nobody."""
        from vmm_core.vhost.describe import describe

        return describe(self._link.established(), self._rings, self._driver_features)

    def ping(self, limit: float) -> None:
        """Have the backend answer within `limit` seconds, or lose it; not while somebody else waits for it."""
        if not self._link.lock.acquire(blocking=False):
            return
        try:
            session = self._link.established()
            if session is not None:
                session.call(wire.GET_FEATURES, timeout=limit)
        except WireError:
            self._link.lose(f"the backend did not answer within {limit:g} s", session)
        finally:
            self._link.lock.release()

    @property
    def is_served(self) -> bool:
        """Whether there is a backend that is not lost; it may wait for somebody who needs it."""
        return self._link.is_attached

    @property
    def was_ready(self) -> bool:
        """Whether any backend has ever answered: one that dies before that could not be started."""
        return self._link.greeted

    def channel_fd(self) -> int:
        """Poll this for readability in the main loop; the same descriptor for the device's whole life."""
        return self._link.fileno()

    def on_channel_readable(self) -> None:
        """Deal with the backend's requests, its end, and rings that it reports as broken. Never waits."""
        self._link.serve()

    def set_memory(self, memory: Sequence[RamRegion]) -> None:
        """Guest memory was added or removed, rings may run; DeviceBroken when the backend cannot follow."""
        with self._link.lock:
            if self._link.established() is None:
                self._rings.change_memory(memory, None)
            else:
                self._link.talk(lambda session: self._rings.change_memory(memory, session))

    def close(self) -> None:
        """Free everything, ending the waits of other threads first; nothing may be called afterwards."""
        self._link.close()
        self._rings.forget()

    def device_features(self) -> int:
        with self._link.lock:
            self._offered = self._link.ready().features & self._wanted
            return self._offered

    def set_driver_features(self, features: int) -> None:
        with self._link.lock:
            self._driver_features = features
            self._link.talk(self._send_features)

    def read_config(self, offset: int, length: int) -> bytes:
        with self._link.lock:
            config = self._config
            if config is None or self._config_seen != self._config_changes:
                self._config_seen = self._config_changes
                self._config = config = self._link.talk(self._fetch_config)
        return config[offset : offset + length].ljust(length, b"\0") if offset >= 0 else bytes(length)

    def write_config(self, offset: int, data: bytes) -> None:
        """Pass the write on; what the backend refuses (a read-only field) is logged and without effect."""
        with self._link.lock:
            if 0 <= offset <= self._config_size - len(data):
                self._link.talk(lambda session: self._send_config(session, offset, data))

    def set_status(self, status: int) -> None:
        """Tell the backend, if it wants to know; DRIVER_OK only once its rings are set up."""
        with self._link.lock:
            self._status = status
            if self._link.established() is not None:
                self._link.talk(lambda session: self._send_status(session, status & ~DRIVER_OK))

    def activate(self, queues: list[QueueSetup]) -> None:
        with self._link.lock:
            self._rings.place(queues)
            self._link.talk(self._start)
        self._on_active()

    def reset(self) -> None:
        """Stop the rings and return to before feature negotiation; a device without backend is simply forgotten."""
        with self._link.lock:
            session = self._link.established()
            try:
                if session is not None and self._driver_features is not None:
                    self._stop(session)
            except WireError as error:
                self._forget_driver()  # first: a replacement may come at once
                self._link.lose(str(error), session)
            finally:
                self._forget_driver()

    # Below: with the link's lock held, except `_config_changed`.

    def _check_offer(self, session: Session) -> None:
        """Refuse at once a backend that cannot do what this machine needs, with a reason that names it."""
        if not session.features >> F_VERSION_1 & 1:
            raise Unfit("the backend offers no VIRTIO_F_VERSION_1")
        if session.max_queues is not None and session.max_queues < len(self.queue_sizes):
            raise Unfit(f"the backend has {session.max_queues} queues, this device {len(self.queue_sizes)}")
        if self.virtio_id == ID_BLOCK and not session.has(wire.CONFIG_SPACE):
            raise Unfit("the backend offers no configuration space (protocol feature CONFIG)")
        if self._dirty_log and not (session.has(wire.LOG_SHMFD) and session.features >> wire.F_LOG_ALL & 1):
            raise Unfit("the backend keeps no dirty log (LOG_SHMFD, VHOST_F_LOG_ALL), which the software CPU needs")
        lost = self._offered & ~session.features
        if lost:
            raise Unfit(f"the new backend lacks features {lost:#x} that the guest was offered")

    def _restore(self, session: Session) -> None:
        """Bring a new backend to where the last one was: all that the driver has done so far, in its order."""
        self._bring_driver(session)
        if self._rings.queues:
            self._start(session)
            self._rings.nudge()
        elif self._status:
            self._send_status(session, self._status & ~DRIVER_OK)
        before, self._config = self._config, None
        if before is not None:
            self._config = self._fetch_config(session)
            if self._config != before:
                self._on_config_change()

    def _bring_driver(self, session: Session) -> None:
        """What the driver has negotiated and written."""
        if self._driver_features is not None:
            self._send_features(session)
        for offset, data in self._written.items():
            session.post(wire.SET_CONFIG, offset, len(data), wire.CONFIG_WRITABLE, data)
        session.settle()

    def _config_changed(self) -> None:
        """On the main loop, the only one who counts: no lock, as that may be held for seconds."""
        self._config_changes += 1
        self._on_config_change()

    def _fetch_config(self, session: Session) -> bytes:
        if not self._config_size or not session.has(wire.CONFIG_SPACE):
            return b""
        config = bytearray(session.read_config(self._config_size))
        if self.virtio_id == ID_BLOCK:
            config[BLK_NUM_QUEUES] = len(self.queue_sizes).to_bytes(2, "little")
        return bytes(config)

    def _send_config(self, session: Session, offset: int, data: bytes) -> None:
        if not session.has(wire.CONFIG_SPACE):
            return
        try:
            session.post(wire.SET_CONFIG, offset, len(data), wire.CONFIG_WRITABLE, data)
            session.settle()
            self._written[offset] = data
        except Refused as error:
            if self._warnings_left > 0:
                self._warnings_left -= 1
                log.warn(f"{self.name}: the guest's write to configuration space at {offset:#x}: {error}")
        self._config = None

    def _send_features(self, session: Session) -> None:
        features = (self._driver_features or 0) | session.features & wire.bits(wire.F_PROTOCOL_FEATURES)
        if self._dirty_log is not None:
            features |= wire.bits(wire.F_LOG_ALL)
        session.post(wire.SET_FEATURES, features)
        session.settle()

    def _send_status(self, session: Session, status: int) -> None:
        if session.has(wire.STATUS):
            session.post(wire.SET_STATUS, status)

    def _start(self, session: Session) -> None:
        """Idempotent for one session: it may have been started as part of greeting it."""
        if self._rings.start(session, self._driver_features or 0, self._link.new_error_fd):
            self._send_status(session, self._status)
            session.synchronize()

    def _stop(self, session: Session) -> None:
        self._rings.stop(session, self._drain_timeout)
        if session.has(wire.RESET):
            session.post(wire.RESET_DEVICE)
        self._send_status(session, 0)
        session.synchronize()

    def _forget_driver(self) -> None:
        self._driver_features = None
        self._offered = 0
        self._status = 0
        self._written = {}
        self._rings.forget()
