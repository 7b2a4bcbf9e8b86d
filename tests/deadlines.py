"""Time limits of tests: generous, scaled by STRATOCELL_TIME_SCALE where the machine itself is emulated."""

from __future__ import annotations

import os
import time

SCALE = float(os.environ.get("STRATOCELL_TIME_SCALE", "1"))


class Deadline:
    """A moment that `seconds` (times the machine's scale) from now has been reached."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds * SCALE
        self._end = time.monotonic() + self.seconds

    def left(self) -> float:
        """Seconds that remain, never negative."""
        return max(0.0, self._end - time.monotonic())
