"""Fixtures of the interoperation layer."""

from __future__ import annotations

from tests.guest.conftest import built_guest, disk_plan, plan, short_directory

__all__ = ["built_guest", "disk_plan", "plan", "short_directory"]
