"""What dies again and again is replaced, but not as fast as it can die."""

from __future__ import annotations

import pytest

from backends.runtime import births


def test_replacements_are_at_once_until_there_were_many_and_then_paced(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(births, "monotonic", lambda: now)
    made = births.Births()
    assert [made.wait() for _ in range(births.DEATHS)] == [0.0] * births.DEATHS
    now += 1
    assert made.wait() == births.WINDOW - 1
    now += births.WINDOW
    assert made.wait() == 0.0
