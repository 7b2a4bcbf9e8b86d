"""The rings of one device and what outlives a backend: their places, kick and call eventfds, the inflight region.

A first backend starts rings where the driver has just put them. Every later one goes on in the middle (vhost-user,
"Inflight I/O tracking"): it gets the region back, resubmits from it, and each ring is kicked and called once, as nobody
knows which of both the dead one had still seen or sent.
"""

from __future__ import annotations

from ipc import vhost_user as wire
from ipc.errors import WireError
from vmm_core.vhost import rings
from vmm_core.vhost.link import Unfit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vmm_core.memory.table import RamRegion
    from vmm_core.vhost.dirty_log import DirtyLog
    from vmm_core.vhost.user import Session
    from vmm_core.virtio.device import QueueSetup

BLACKOUT_LIMIT = 2.0  # seconds for each answer of a new backend while the driver waits; none of them takes a disk


class RingSet:
    """`queues` is empty until the driver is ready. Methods talk to the session given: WireError."""

    def __init__(self, memory: Sequence[RamRegion], dirty_log: DirtyLog | None) -> None:
        self.memory = tuple(memory)
        self.queues: list[QueueSetup] = []
        self._dirty_log = dirty_log
        self._inflight: rings.Inflight | None = None
        self._told: Session | None = None  # knows of guest memory and the dirty log
        self._runs_on: Session | None = None
        self._have_run = False  # some backend may have taken requests
        self._stopped: dict[int, int] = {}  # where rings stand that were stopped in good order
        self.interrupted = False  # some ring was stopped by `hand_over`, and runs nowhere

    @property
    def inflight(self) -> rings.Inflight | None:
        """The region in use, if the backend keeps one."""
        return self._inflight

    def place(self, queues: list[QueueSetup]) -> None:
        """The driver has set these up: nothing of earlier ones is of any use."""
        self.forget()
        self.queues = queues

    def forget(self) -> None:
        """The driver has reset the device."""
        self.queues = []
        self._runs_on = None
        self._have_run = False
        self._stopped = {}
        self.interrupted = False
        self._change_inflight(None)

    def change_memory(self, memory: Sequence[RamRegion], session: Session | None) -> None:
        """Guest memory was added or removed; tell the backend if it knows of the rest."""
        old, self.memory = self.memory, tuple(memory)
        if session is not None and session is self._told:
            rings.change_memory(session, old, self.memory)

    def start(self, session: Session, features: int, new_error_fd: Callable[[], int]) -> bool:
        """Start the rings, or go on with them; False when they run on this backend already."""
        if session is self._runs_on:
            return False
        if session is not self._told:
            self._tell(session)
            self._told = session
        again = self._have_run
        self._give_inflight(session, features, again)
        self._have_run = bool(self.queues)
        self._set_up(session, features, new_error_fd, again=again)
        self._enable(session)
        return True

    def hand_over(
        self,
        old: Session,
        new: Session,
        features: int,
        new_error_fd: Callable[[], int],
        limit: float,
        switch: Callable[[], None],
    ) -> None:
        """Stop the rings on `old` and go on with them on `new`, which `switch()` makes the backend; or WireError.

        Until then `new` may not touch a request, so that whatever goes wrong sends the rings back to `old`. A ring has
        `limit` seconds to let its requests finish; from the first stop to the last start the driver waits.
        """
        if self._inflight is not None and not new.has(wire.INFLIGHT_SHMFD):
            raise Unfit("the new backend does not track requests in flight (INFLIGHT_SHMFD), the old one does")
        self._tell(new)
        if old is self._runs_on:
            self._move(old, new, features, new_error_fd, limit, switch)
        else:
            switch()
        self._told = new

    def _move(
        self,
        old: Session,
        new: Session,
        features: int,
        new_error_fd: Callable[[], int],
        limit: float,
        switch: Callable[[], None],
    ) -> None:
        before = self._inflight
        self.interrupted = True
        for queue in self.queues:
            self._stopped[queue.index] = rings.stop_ring(old, queue.index, limit)
        try:
            usual, new.timeout = new.timeout, min(new.timeout, BLACKOUT_LIMIT)
            self._inflight = self._new_inflight(new)
            self._set_up(new, features, new_error_fd, again=True)
            new.timeout = usual
            switch()
        except WireError:
            self._change_inflight(before)
            if before is not None:
                rings.send_inflight(old, before)
            self._set_up(old, features, new_error_fd, again=True)
            self._enable(old)
            raise
        else:
            if before is not None:
                before.close()
            self._stopped = {}  # now its inflight region says where they stand
            self.interrupted = False
            self._enable(new)
        finally:
            self.nudge()

    def _change_inflight(self, region: rings.Inflight | None) -> None:
        surplus, self._inflight = self._inflight, region
        if surplus is not None and surplus is not region:
            surplus.close()

    def _set_up(self, session: Session, features: int, new_error_fd: Callable[[], int], *, again: bool) -> None:
        error_fd = new_error_fd()
        for queue in self.queues:
            base = self._base(queue, features) if again else rings.first_base(features)
            rings.set_up_ring(session, queue, base, error_fd, log=self._dirty_log is not None)
        session.synchronize()

    def _enable(self, session: Session) -> None:
        for queue in self.queues:
            rings.enable_ring(session, queue.index)
        session.synchronize()
        self._runs_on = session
        self._stopped = {}
        self.interrupted = False

    def _new_inflight(self, session: Session) -> rings.Inflight | None:
        """A fresh region of that backend, which has it; None when it does not track requests."""
        if not self.queues or not session.has(wire.INFLIGHT_SHMFD):
            return None
        count = max(queue.index for queue in self.queues) + 1
        region = rings.get_inflight(session, count, max(queue.size for queue in self.queues))
        if region is not None:
            try:
                rings.send_inflight(session, region)
            except WireError:
                region.close()
                raise
        return region

    def nudge(self) -> None:
        """Kick and call every ring once."""
        for queue in self.queues:
            rings.signal(queue.kick_fd)
            rings.signal(queue.call_fd)

    def stop(self, session: Session, timeout: float) -> None:
        """Let what is in flight finish; ring by ring at most `timeout` seconds."""
        if session is self._runs_on:
            for queue in self.queues:
                rings.stop_ring(session, queue.index, timeout)

    def outstanding(self, features: int) -> bytes:
        """Equal when nothing has moved between two looks; empty when nothing waits for the backend."""
        packed = bool(features >> rings.F_RING_PACKED & 1)
        waiting = b"".join(
            rings.progress(self.memory, queue)
            for queue in self.queues
            if rings.is_readable(queue.kick_fd) or self._waits(queue, packed=packed)
        )
        return waiting + (self._inflight.busy(packed=packed) if self._inflight is not None else b"")

    def _waits(self, queue: QueueSetup, *, packed: bool) -> bool:
        """Whether a ring has a request: its doorbell may have been taken by a backend that then stood still.

        One that keeps no account of what is in flight may be busy with it, and deaf meanwhile: it is left alone.
        """
        if self._inflight is None:
            return False
        if not packed:
            return not rings.is_drained(self.memory, queue)
        position = self._inflight.position(queue.index)
        return position is not None and rings.is_offered(self.memory, queue, *position)

    def _tell(self, session: Session) -> None:
        rings.send_memory(session, self.memory)
        if self._dirty_log is not None:
            rings.send_dirty_log(session, self._dirty_log)

    def _give_inflight(self, session: Session, features: int, again: bool) -> None:
        if not self.queues:
            return
        tracks = session.has(wire.INFLIGHT_SHMFD)
        if again and self._inflight is not None and not tracks:
            raise Unfit("the new backend does not track requests in flight (INFLIGHT_SHMFD), the old one did")
        if again and self._inflight is None and not self._idle(features):
            raise Unfit("requests were in flight, of which the old backend kept no account (INFLIGHT_SHMFD)")
        if not again:
            self._change_inflight(None)
            self._inflight = self._new_inflight(session)
        elif self._inflight is not None:
            rings.send_inflight(session, self._inflight)

    def _idle(self, features: int) -> bool:
        if features >> rings.F_RING_PACKED & 1:
            return False  # where it stands is known to the backend alone
        return all(rings.is_drained(self.memory, queue) for queue in self.queues)

    def _base(self, queue: QueueSetup, features: int) -> int:
        """Where a ring goes on; a backend with an inflight region in use corrects it by that."""
        if queue.index in self._stopped:
            return self._stopped[queue.index]
        if features >> rings.F_RING_PACKED & 1:
            return rings.first_base(features)
        return rings.used_index(self.memory, queue)
