"""Fixtures of the faults layer: the guests of the guest layer, which it breaks."""

from __future__ import annotations

import pytest

from tests.deadlines import SCALE
from tests.guest.conftest import TEST_TIMEOUT, built_guest, disk_plan, guest, plan, short_directory

__all__ = ["built_guest", "disk_plan", "guest", "plan", "short_directory"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each of these boots a guest."""
    for item in items:
        if "faults" in item.path.parts and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(TEST_TIMEOUT * SCALE))
