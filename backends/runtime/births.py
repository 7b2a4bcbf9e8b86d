"""How often what died is replaced before that is given up."""

from __future__ import annotations

from time import monotonic

DEATHS, WINDOW = 5, 10.0  # so many dead in so many seconds: there is something that another will not cure


class Births:
    """Counts those that are made."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def another(self) -> bool:
        """Whether there may be one more now; if so it counts."""
        now = monotonic()
        self._times = [time for time in self._times if time > now - WINDOW]
        if len(self._times) >= DEATHS:
            return False
        self._times.append(now)
        return True
