"""Whether a backend that ended is started again, and how soon (`-backend restart=,max-restarts=,window=,backoff=`)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm_core.config.records import BackendPolicy

FIRST_PAUSE = 0.01  # seconds before the second attempt, where no backoff is asked for
LONGEST_PAUSE = 10.0


class Budget:
    """Restarts spent within the policy's window. Times are monotonic seconds."""

    def __init__(self, policy: BackendPolicy) -> None:
        self._policy = policy
        self._restarts: list[float] = []
        self._failures = 0  # attempts in a row that did not come into service

    def refusal(self, status: int | None, now: float) -> str:
        """Why there is no restart after an exit with `status` (None: unknown); empty when there is one."""
        policy = self._policy
        if policy.restart == "never":
            return "restart=never"
        if policy.restart == "on-failure" and status == 0:
            return "it ended without a failure, and restart=on-failure"
        self._restarts = [then for then in self._restarts if then > now - policy.window]
        if len(self._restarts) >= policy.max_restarts:
            return f"more than {policy.max_restarts} restarts within {policy.window} s"
        return ""

    def spend(self, now: float) -> float:
        """Count one restart; return the pause before it in seconds, which doubles while restarts fail."""
        self._restarts.append(now)
        failures, self._failures = self._failures, self._failures + 1
        pause = self._policy.backoff / 1000
        if failures:
            pause = max(pause, FIRST_PAUSE) * 2 ** min(failures - 1 if not pause else failures, 20)
        return min(pause, max(LONGEST_PAUSE, self._policy.backoff / 1000))

    def succeeded(self) -> None:
        """The backend came into service."""
        self._failures = 0

    def renew(self) -> None:
        """Somebody asked for a restart by hand: start counting anew."""
        self._restarts, self._failures = [], 0
