"""Cells, closed at the end of the test that used them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.security.cell import Cell

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def cell() -> Iterator[Cell]:
    made = Cell()
    yield made
    made.close()
