"""A device served by a process that we start through the spawner."""

from __future__ import annotations

from vmm_core.supervisor.guard import FAILED, RESTARTING, STARTING, Guard
from vmm_core.vhost.link import CLOSED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm_core.config.records import BackendPolicy
    from vmm_core.supervisor.backend import BackendProcess
    from vmm_core.vhost.device import VhostUserDevice
    from vmm_core.vm import Vm

    Start = Callable[[Callable[[BackendProcess], None]], tuple[BackendProcess, int]]

SIGKILL = 9
END_LIMIT = 0.1  # seconds for a process without session to end by itself, so that it can say how


class OwnGuard(Guard):
    """`start_process(on_end)` asks for a process and returns it with our end of its socket, at once.

    A successor gets the rings only when its predecessor is dead: two must never work on the same requests.
    """

    def __init__(self, vm: Vm, name: str, front: VhostUserDevice, policy: BackendPolicy, start_process: Start) -> None:
        super().__init__(vm, name, front, policy)
        self.process: BackendProcess | None = None
        self._start_process = start_process
        self._lost_because = ""  # what the device had against it, if it did not just end
        self._dropped: list[BackendProcess] = []  # killed, not yet dead

    def _launch(self) -> None:
        if self._dropped:
            return  # the last of them to end calls again
        again = self.state == RESTARTING
        self.process, sock = self._start_process(self._ended)
        self.front.attach(sock)
        if again:
            self._bring_up()

    @property
    def pid(self) -> int:  # type: ignore[override]
        return self.process.pid if self.process is not None else 0

    def _drop(self) -> None:
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

    def _ended(self, process: BackendProcess) -> None:
        if process in self._dropped:
            self._dropped.remove(process)
            if self.state == RESTARTING and self.process is None and not self._closed:
                self._launch_later(0.0)
            return
        if process is not self.process or self._closed:
            return
        said = f" (it said: {process.last_lines[-1]})" if process.last_lines else ""
        cause, self._lost_because = self._lost_because, ""
        reason = f"{process.end_reason}{said}{f': {cause}' if cause else ''}"
        if self.state == STARTING and not self.front.was_ready and (process.exit_status or 0) > 0:
            self.last_exit = reason
            self._give_up(f"its backend {reason}")  # it says itself why it cannot work: another would say the same
            return
        self._died(reason, None if cause else process.exit_status)


def kill(process: BackendProcess) -> None:
    """End a process that may be stopped or stuck, or not even born yet."""
    if process.end_reason:
        return
    process.signal(SIGKILL)
    process.stop()
    if not process.namespace_pid:
        process.failed("it did not come to life")  # should it do so later, it finds its lifeline cut
