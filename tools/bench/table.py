"""A row of the table: our figure, the peer's, their ratio, and whether it reaches the aim."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """`aim` bounds ours/peer, or ours when there is no peer: from above when less is better, else from below."""

    what: str
    unit: str
    ours: float
    peer: float | None
    aim: float | None
    less_is_better: bool
    command: str

    @property
    def ratio(self) -> float | None:
        return self.ours / self.peer if self.peer else None

    @property
    def verdict(self) -> str:
        measured = self.ours if self.peer is None else self.ratio
        if self.aim is None or measured is None:
            return ""
        reached = measured <= self.aim if self.less_is_better else measured >= self.aim
        return "ok" if reached else "short"

    @property
    def aim_text(self) -> str:
        if self.aim is None:
            return ""
        sign = "<=" if self.less_is_better else ">="
        return f"{sign} {self.aim:g} {self.unit}" if self.peer is None else f"{sign} {self.aim:g}x"


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def show(rows: list[Row]) -> None:
    """Print the table, then each row's command."""
    table = Table("what", "unit", "ours", "peer", "ratio", "aim", "", box=None, pad_edge=False)
    for row in rows:
        peer = "" if row.peer is None else f"{row.peer:,.1f}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        table.add_row(row.what, row.unit, f"{row.ours:,.1f}", peer, ratio, row.aim_text, row.verdict)
    console = Console(width=140, highlight=False)
    console.print(table)
    console.print()
    shown = ""
    for row in rows:
        if row.command != shown:
            print(f"{row.what.strip()}: {row.command}")
        shown = row.command
