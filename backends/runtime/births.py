"""How fast what dies is replaced: at once, but not for ever at that rate."""

from __future__ import annotations

from time import monotonic

DEATHS, WINDOW = 5, 10.0  # so many in so many seconds at most: those that come may die at once


class Births:
    """Counts those that are made."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def wait(self) -> float:
        """In how many seconds there may be one more; 0: now, and it counts."""
        now = monotonic()
        self._times = [time for time in self._times if time > now - WINDOW]
        if len(self._times) >= DEATHS:
            return self._times[0] + WINDOW - now
        self._times.append(now)
        return 0.0
