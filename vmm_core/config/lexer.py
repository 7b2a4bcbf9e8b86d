"""The tokeniser: which words of a command line belong to which option (facts 1.1)."""

from __future__ import annotations

import os

from vmm_core.config.kinds import quote
from vmm_core.config.options import BY_NAME
from vmm_core.config.table import ANY, MANY, NONE, ONE, OPTIONAL, Option
from vmm_core.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

HELP_WORDS = ("-h", "-help")
VERSION_WORDS = ("-V", "-version")
_USAGE = "Use '-h' or '-help' to get usage."


class Occurrence:
    """One appearance of an option, and the values that followed it."""

    __slots__ = ("option", "values")

    def __init__(self, option: Option) -> None:
        self.option = option
        self.values: list[str] = []


def tokenise(argv: Sequence[str]) -> tuple[list[Occurrence], str]:
    """Return the options in their order, and "help" or "version" if that is all that was asked for."""
    words = list(argv)
    if "--" in words:
        del words[words.index("--") :]
    for word in words:
        if word in HELP_WORDS:
            return [], "help"
        if word in VERSION_WORDS:
            return [], "version"
    occurrences = _group(words)
    _check_counts(occurrences)
    return occurrences, ""


def _group(words: list[str]) -> list[Occurrence]:
    occurrences: list[Occurrence] = []
    for word in words:
        _check_characters(word)
        if word.startswith("-"):
            occurrences.append(Occurrence(_find(word)))
        elif occurrences and occurrences[-1].option.values != NONE:
            occurrences[-1].values.append(word)
        else:
            raise _unexpected(word)
    return occurrences


def _check_characters(word: str) -> None:
    """Refuse what no system call takes, so that no later stage meets it."""
    if word.isascii():
        if "\0" not in word:
            return
    else:
        try:
            if b"\0" not in os.fsencode(word):
                return
        except UnicodeEncodeError:
            pass
    raise VmmError(f"Found argument {quote(word)} which holds a character that cannot be passed on.")


def _find(word: str) -> Option:
    option = BY_NAME.get(word[1:])
    if option is None:
        raise _unexpected(word)
    return option


def _unexpected(word: str) -> VmmError:
    from vmm_core.config.suggest import hint

    near = hint(word.lstrip("-"), BY_NAME, "-") if word.startswith("-") else ""
    return VmmError(
        f"Found argument {quote(word)} which wasn't expected, or isn't valid in the context{near}. {_USAGE}"
    )


def _check_counts(occurrences: list[Occurrence]) -> None:
    seen = set()
    for occurrence in occurrences:
        option, values = occurrence.option, occurrence.values
        if option.values in (MANY, ANY):
            if option.values == MANY and not values:
                raise _needs_value(option)
            continue
        if option.name in seen:
            raise VmmError(f"The argument '-{option.name}' was provided more than once. {_USAGE}")
        seen.add(option.name)
        if option.values == ONE and not values:
            raise _needs_value(option)
        if option.values in (ONE, OPTIONAL) and len(values) > 1:
            raise VmmError(
                f"The argument '-{option.name}' only need one value. {quote(values[1])} is one too many. {_USAGE}"
            )


def _needs_value(option: Option) -> VmmError:
    return VmmError(f"The argument '-{option.name}' requires a value, but none was supplied. {_USAGE}")
