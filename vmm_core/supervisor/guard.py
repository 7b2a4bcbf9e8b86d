"""Keeping a device served: what happens from a backend's loss to its replacement, the same for every kind of device.

A loss is noticed by pidfd, by the socket's end, by an answer that does not come, or by the heartbeat. The replacement
is greeted and brought up to date on a thread of its own, or on a vCPU's that happens to need the device: the event loop
never waits for a backend.
"""

from __future__ import annotations

from _thread import start_new_thread
from time import monotonic

from vmm_core import log
from vmm_core.errors import VmmError
from vmm_core.supervisor.budget import Budget
from vmm_core.supervisor.heartbeat import Heartbeat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm_core.config.records import BackendPolicy
    from vmm_core.loop import Timer
    from vmm_core.vhost.device import VhostUserDevice
    from vmm_core.vm import Vm

STARTING, RUNNING, RESTARTING, FAILED = "starting", "running", "restarting", "failed"


class Guard:
    """One device's backend. Methods are for the event loop's thread, unless they say otherwise.

    Subclasses say how a backend is had (`_launch`) and dropped (`_drop`).
    """

    pid = 0  # of its process, if it is ours and runs

    def __init__(self, vm: Vm, name: str, front: VhostUserDevice, policy: BackendPolicy) -> None:
        self.name = name
        self.front = front
        self.policy = policy
        self.state = STARTING
        self.restarts = 0
        self.last_exit: str | None = None
        self.last_failure = ""
        self.last_blackout = 0  # microseconds
        self._vm = vm
        self._loop = vm.loop
        self._budget = Budget(policy)
        self._heartbeat = Heartbeat(vm.loop, front, self._is_busy)
        self._generation = 0  # of the backend, counted
        self._down_since = 0.0  # 0: it is not down
        self._timer: Timer | None = None
        self._closed = False
        self.on_mended: Callable[[], object] = int  # the device works again; set by its owner
        front.supervise(
            on_lost=lambda reason: self._noticed(self._front_lost, reason),
            on_unfit=lambda reason: self._noticed(self._unfit, reason),
            on_ready=lambda: self._noticed(self._in_service, ""),
            on_active=lambda: self._loop.call_soon(self._heartbeat.arm),
        )

    @property
    def shown_state(self) -> str:
        """The state for people: a process that runs does so before its guest has needed it."""
        return RUNNING if self.state == STARTING and self.pid else self.state

    def start(self) -> None:
        """Ask for the first backend; returns at once."""
        self._launch()

    def restart(self) -> None:
        """By hand: replace a backend that runs, or bring back one that was given up. VmmError while it restarts."""
        if self.state == RESTARTING:
            raise VmmError(f"the backend of {self.name} is being restarted already")
        self._budget.renew()
        self._generation += 1
        self._drop()
        self._go_down(monotonic(), "a restart was asked for")
        self._launch_later(0.0)

    def close(self) -> None:
        """The VM ends: no more restarts."""
        self._closed = True
        self._heartbeat.close()
        if self._timer is not None:
            self._timer.cancel()

    def _is_busy(self) -> bool:
        """Whether the backend has a command to obey, for which it may have to finish its requests first."""
        return False

    # Having and dropping a backend.

    def _launch(self) -> None:
        """Get a backend and attach it, or `_lost` if that fails."""
        raise NotImplementedError

    def _drop(self) -> None:
        """Be rid of the backend, dead or alive; when this returns none is known."""
        raise NotImplementedError

    def _bring_up(self) -> None:
        """Greet the backend just attached and bring it up to date, beside the event loop."""
        start_new_thread(self._prepare, ())

    def _prepare(self) -> None:
        try:
            self.front.prepare()
        except VmmError:
            pass  # whoever found out has told us: lost, or failed

    def _noticed(self, what: Callable[[float, str], None], reason: str) -> None:
        """Of the present backend, on any thread: `what(when, reason)` soon, unless it has been replaced by then."""
        when, generation = monotonic(), self._generation
        self._loop.call_soon(lambda: what(when, reason) if generation == self._generation else None)

    # From loss to replacement.

    def _front_lost(self, when: float, reason: str) -> None:
        """The session is over; what that means for the process is the subclass's business."""
        raise NotImplementedError

    def _died(self, reason: str, status: int | None) -> None:
        """The backend is certainly gone: report it and start the next, or give up."""
        if self._closed:
            return
        self.last_exit = reason
        log.error(f"{self.name}: its backend {reason}")
        self._emit("BACKEND_DIED", {"pid": self.pid, "reason": reason})
        self._go_down(monotonic(), reason)
        refusal = self._budget.refusal(status, monotonic())
        if refusal:
            self._give_up(f"its backend {reason}; {refusal}")
        else:
            self._launch_later(self._budget.spend(monotonic()))

    def _go_down(self, when: float, reason: str) -> None:
        if not self._down_since:
            self._down_since = when
        self.state = RESTARTING
        self.front.lose(reason)

    def _launch_later(self, pause: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._generation += 1
        if pause > 0:
            self._timer = self._loop.call_later(pause, self._pause_over)
        else:
            self._launch()

    def _pause_over(self) -> None:
        self._timer = None  # what is lost from now on is the new one
        self._launch()

    def _in_service(self, when: float, _reason: str) -> None:
        if self._closed or self.state == FAILED:
            return
        again = self.state == RESTARTING
        self.state = RUNNING
        self._budget.succeeded()
        if self.front.is_active:
            self._heartbeat.arm()
        if again and self._down_since:
            self.restarts += 1
            self.last_blackout = int((when - self._down_since) * 1e6)
            log.info(f"{self.name}: its backend is back after {self.last_blackout / 1000:.1f} ms")
            data: dict[str, object] = {"blackout": self.last_blackout, "restarts": self.restarts}
            self._emit("BACKEND_RESTARTED", {"pid": self.pid, **data})
            self.on_mended()
        self._down_since = 0.0

    def _unfit(self, _when: float, reason: str) -> None:
        if not self._closed and self.state != FAILED:
            self._give_up(reason)

    def _give_up(self, reason: str) -> None:
        """The device is lost until somebody restarts its backend; the VM goes on, unless it never had the device."""
        self.state = FAILED
        self.last_failure = reason
        self._drop()
        self._emit("BACKEND_FAILED", {"reason": reason})
        if not self.front.was_ready:
            self._vm.fail(f"{self.name}: {reason}")
        self.front.fail(reason)

    def _emit(self, event: str, data: dict[str, object]) -> None:
        self._vm.emit(event, {"id": self.name, **data})
