"""A device served by a vhost-user socket that somebody else listens on: connecting, and connecting again."""

from __future__ import annotations

from time import monotonic

from vmm_core.supervisor.guard import FAILED, RESTARTING, Guard
from vmm_core.vhost.connect import try_connect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm_core.config.records import BackendPolicy
    from vmm_core.vhost.device import VhostUserDevice
    from vmm_core.vm import Vm

FIRST_PAUSE, LONGEST_PAUSE = 0.01, 1.0  # seconds between attempts to connect


class ForeignGuard(Guard):
    """The first connection is made by whoever makes the guard: a VM does not start without its disk."""

    def __init__(self, vm: Vm, name: str, front: VhostUserDevice, policy: BackendPolicy, path: str) -> None:
        super().__init__(vm, name, front, policy)
        self._path = path
        self._pause = FIRST_PAUSE
        self._give_up_at = 0.0

    def start(self) -> None:
        """It is connected already."""

    def _launch(self) -> None:
        sock, failure = try_connect(self._path)
        if sock >= 0:
            self._pause, self._give_up_at = FIRST_PAUSE, 0.0
            self.front.attach(sock)
            self._bring_up()
            return
        now = monotonic()
        self._give_up_at = self._give_up_at or now + self.policy.window
        if now >= self._give_up_at:
            self._give_up_at = 0.0
            self._give_up(f"nobody has listened at {self._path} for {self.policy.window} s ({failure})")
            return
        pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
        self._launch_later(pause)

    def _drop(self) -> None:
        """The session is the front's; there is no process to end."""

    def _front_lost(self, when: float, reason: str) -> None:
        if self.state not in (FAILED, RESTARTING) or (self.state == RESTARTING and self._timer is None):
            self._down_since = self._down_since or when
            self._died(f"is gone: {reason}", None)
