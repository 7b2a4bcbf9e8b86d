"""A device served by a process that we start through the spawner."""

from __future__ import annotations

from _thread import allocate_lock, start_new_thread

from ipc.errors import WireError
from vmm_core import log
from vmm_core.errors import VmmError
from vmm_core.supervisor import control
from vmm_core.supervisor.guard import FAILED, RESTARTING, STARTING, Guard
from vmm_core.vhost.link import CLOSED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ipc.control import Value
    from vmm_core.config.records import BackendPolicy
    from vmm_core.supervisor.backend import BackendProcess
    from vmm_core.vhost.device import VhostUserDevice
    from vmm_core.vm import Vm

    Start = Callable[[Callable[[BackendProcess], None], bool, str], tuple[BackendProcess, int]]
    Report = Callable[[int, str], None]

SIGKILL = 9
LEAVE_LIMIT = 2.0  # seconds for a process that was relieved to end by itself
END_LIMIT = 0.1  # seconds for a process without session to end by itself, so that it can say how


class OwnGuard(Guard):
    """`start_process(on_end, renewed, command)` asks for a process and returns it with our end of its socket, at once;
    a renewed one loads its code from disk instead of getting it by fork, from the installation of `command` if given.

    A successor gets the rings only when its predecessor is dead: two must never work on the same requests.
    """

    def __init__(self, vm: Vm, name: str, front: VhostUserDevice, policy: BackendPolicy, start_process: Start) -> None:
        super().__init__(vm, name, front, policy)
        self.process: BackendProcess | None = None
        self._start_process = start_process
        self._command = ""
        self._renewed = False  # once upgraded, successors are to be of the new code, too
        self._newcomer: BackendProcess | None = None  # during an upgrade
        self._deciding = allocate_lock()  # whether an upgrade or the end of `process` comes first
        self._may_change = False  # an upgrade has begun, and `process` has not ended
        self._lost_because = ""  # what the device had against it, if it did not just end
        self._dropped: list[BackendProcess] = []  # killed, not yet dead

    def _launch(self) -> None:
        if self._dropped:
            return  # the last of them to end calls again
        again = self.state == RESTARTING
        self.process, sock = self._begin(self._renewed, self._command)
        self.front.attach(sock, self.process.is_stopped)
        if again:
            self._bring_up()

    def _begin(self, renewed: bool, command: str) -> tuple[BackendProcess, int]:
        process, sock = self._start_process(self._ended, renewed, command)
        process.control.on_broken = lambda reason: self._misbehaved(process, reason)
        return process, sock

    def tell(self, command: str, arguments: Mapping[str, Value], done: control.Done) -> None:
        """Give the backend a command that every later one is started with anyway; `done(answer, reason)` follows.

        So none to tell, or one that ends before it answers, is as good as one that obeys: `done({}, "")`.
        """
        if self._newcomer is not None:
            self._newcomer.control.ask(command, arguments, lambda _answer, _reason: None)
        if self.process is None:
            done({}, "")
            return
        self.process.control.ask(
            command, arguments, lambda answer, reason: done(answer, "" if reason == control.GONE else reason)
        )

    def _is_busy(self) -> bool:
        return self.process is not None and self.process.control.is_waiting

    def upgrade(self, done: Report, command: str = "") -> None:
        """Start a process of the code on disk beside the present one, and hand the device over to it.

        `done(blackout in microseconds, reason)` follows, with a reason if the old process serves on. VmmError when the
        backend does not serve at the moment.
        """
        if self._newcomer is not None:
            raise VmmError(f"the backend of {self.name} is being upgraded already")
        if self.state == RESTARTING or not self.pid:
            raise VmmError(f"the backend of {self.name} does not serve at the moment (it is {self.shown_state})")
        newcomer, sock = self._begin(True, command)
        self._newcomer, self._may_change = newcomer, True
        start_new_thread(self._hand_over, (newcomer, sock, command, done))

    def _hand_over(self, newcomer: BackendProcess, sock: int, command: str, done: Report) -> None:
        """On a thread of its own: this waits for the new process to load, and for requests of the old one to finish."""
        blackout, failure = 0, ""
        try:
            blackout = self.front.replace(sock, lambda switch: self._relieve(newcomer, switch), newcomer.is_stopped)
        except (WireError, VmmError) as error:
            failure = str(error)
        old = "serves on" if self._may_change and self.front.is_served else "was lost meanwhile, too"
        self._loop.call_soon(lambda: self._handed_over(newcomer, command, blackout, failure, old, done))

    def _handed_over(
        self, newcomer: BackendProcess, command: str, blackout: int, failure: str, old: str, done: Report
    ) -> None:
        self._newcomer = None
        if failure:
            said = newcomer.last_lines[-1] if newcomer.last_lines else ""
            kill(newcomer)
            done(0, f"{failure}{f' (it said: {said})' if said else ''}; the old backend {old}")
            return
        self._renewed, self._command = True, command
        self.last_blackout = blackout
        log.info(f"{self.name}: its backend was replaced by pid {newcomer.pid} within {blackout / 1000:.1f} ms")
        self._emit("BACKEND_UPGRADED", {"pid": newcomer.pid, "blackout": blackout})
        done(blackout, "")

    def _relieve(self, newcomer: BackendProcess, switch: Callable[[], None]) -> None:
        """On the upgrade's thread: from now on the newcomer is the backend. The other one's end means nothing then."""
        with self._deciding:
            if not self._may_change:
                raise WireError("the old backend ended meanwhile")
            switch()
            old, self.process = self.process, newcomer
            self._generation += 1
            self._lost_because = ""
        if old is not None:
            self._loop.call_soon(lambda: self._see_off(old))

    def _see_off(self, old: BackendProcess) -> None:
        self._loop.call_later(LEAVE_LIMIT, lambda: kill(old))

    @property
    def pid(self) -> int:  # type: ignore[override]
        return self.process.pid if self.process is not None else 0

    def _drop(self) -> None:
        with self._deciding:
            self._may_change = False
            process, self.process = self.process, None
        if process is not None and not process.end_reason:
            self._dropped.append(process)
            kill(process)

    def _front_lost(self, when: float, reason: str) -> None:
        """Its process is dead, about to end, or has to be killed; `_ended` does the rest."""
        process = self.process
        if process is None or process.end_reason or self._closed or self.state == FAILED:
            return
        self._down_since = self._down_since or when
        self._lost_because = "" if reason == CLOSED else reason
        self._loop.call_later(END_LIMIT if reason == CLOSED else 0.0, lambda: kill(process))

    def _misbehaved(self, process: BackendProcess, reason: str) -> None:
        """It says what it must not, or has closed its ears; the latter is also how an end begins."""
        if process is self.process and reason != control.CLOSED:
            self._lost_because = reason
        self._loop.call_later(END_LIMIT if reason == control.CLOSED else 0.0, lambda: kill(process))

    def _ended(self, process: BackendProcess) -> None:
        if process in self._dropped:
            self._dropped.remove(process)
            if self.state == RESTARTING and self.process is None and not self._closed:
                self._launch_later(0.0)
            return
        if self._closed:
            return
        if not self._is_present(process):
            self.front.nudge()  # an unsuccessful newcomer may have taken a doorbell with it
            return
        said = f" (it said: {process.last_lines[-1]})" if process.last_lines else ""
        cause, self._lost_because = self._lost_because, ""
        reason = f"{process.end_reason}{said}{f': {cause}' if cause else ''}"
        said_why = self.state == STARTING and not self.front.was_ready and (process.exit_status or 0) > 0
        if said_why or process.hopeless:
            self.last_exit = reason
            self._give_up(f"its backend {reason}")  # another would say the same
            return
        self._died(reason, None if cause else process.exit_status)

    def _is_present(self, process: BackendProcess) -> bool:
        """Whether it is the backend; then no newcomer takes its place any more, but a successor does."""
        with self._deciding:
            if process is not self.process:
                return False
            self._may_change = False
            return True


def kill(process: BackendProcess) -> None:
    """End a process that may be stopped or stuck, or not even born yet."""
    if process.end_reason:
        return
    process.signal(SIGKILL)
    process.stop()
    if not process.namespace_pid:
        process.failed("it did not come to life")  # should it do so later, it finds its lifeline cut
