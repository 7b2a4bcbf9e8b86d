"""The nearest valid name for a misspelled one. Imported only when there is an error to explain."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def distance(left: str, right: str) -> int:
    """Return the edits (insert, delete, replace, swap of neighbours) that turn one word into the other."""
    before: list[int] = []
    above = list(range(len(right) + 1))
    for row, letter in enumerate(left, 1):
        current = [row]
        for column, other in enumerate(right, 1):
            cost = min(above[column] + 1, current[-1] + 1, above[column - 1] + (letter != other))
            if row > 1 and column > 1 and letter == right[column - 2] and left[row - 2] == other:
                cost = min(cost, before[column - 2] + 1)
            current.append(cost)
        before, above = above, current
    return above[-1]


def nearest(word: str, names: Iterable[str]) -> str | None:
    """Return the name closest to `word`, or None when none is near enough to be what was meant."""
    folded = word[:64].lower().replace("_", "-")
    limit = max(1, len(folded) // 3)
    best = min(((distance(folded, name.lower().replace("_", "-")), name) for name in names), default=(limit + 1, ""))
    return best[1] if best[0] <= limit else None


def hint(word: str, names: Iterable[str], prefix: str = "") -> str:
    """Return `; did you mean '...'?`, or nothing."""
    name = nearest(word, names)
    return f"; did you mean '{prefix}{name}'?" if name else ""
