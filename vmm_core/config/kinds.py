"""Types of option values: each reads text strictly, and describes itself for messages, manual page and completion.

Strict means what the facts (1.1) say and no more: Python's own `int()` would also take "1_000", " 5" and digits of
other scripts.
"""

from __future__ import annotations

import os

from vmm_core.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
_UNITS = {"K": KIB, "k": KIB, "M": MIB, "m": MIB, "G": GIB, "g": GIB}
_MAX_DIGITS = 20  # any 64-bit number; more digits would only cost time


class Invalid(Exception):
    """A value that its kind refuses; the message says what would be accepted."""


def shown(text: str) -> str:
    """Return `text` safe to print: control characters escaped, long values cut."""
    if len(text) > 120:
        text = text[:120] + "..."
    return text if text.isprintable() else ascii(text)[1:-1]


def quote(text: str) -> str:
    """Return `text` in quotes, safe to print."""
    return f"'{shown(text)}'"


def decimal(text: str) -> int | None:
    """Return the value of plain ASCII decimal digits, None for anything else."""
    if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS:
        return int(text)
    return None


def decimal_or_hex(text: str) -> int | None:
    """Return the value of decimal digits or of `0x` and hexadecimal digits, None for anything else."""
    if text[:2] not in ("0x", "0X"):
        return decimal(text)
    digits = text[2:]
    if 0 < len(digits) <= 16 and not set(digits) - set("0123456789abcdefABCDEF"):
        return int(digits, 16)
    return None


class Kind:
    """One type of value: `expects` completes the sentence "expected ..."; `completions` are words a shell may offer."""

    expects = "a value"
    metavar = "VALUE"
    completions: tuple[str, ...] = ()

    def read(self, text: str) -> Any:
        """Return the value that `text` stands for, or raise Invalid."""
        raise Invalid(self.expects)

    def show(self, value: Any) -> str:
        """Return how a default is written in documents."""
        return str(value)


class Flag(Kind):
    """A key that stands alone (`server`); `server=on` and `server=off` are understood too."""

    expects = "no value, or on or off"
    metavar = ""

    def read(self, text: str) -> bool:
        return bool(BOOL.read(text))


class Choice(Kind):
    """One of a few words, each with the value it stands for."""

    def __init__(self, words: dict[str, Any], *, any_case: bool = False, expects: str = "", metavar: str = "") -> None:
        self._words = words
        self._any_case = any_case
        self.expects = expects or f"one of {', '.join(words)}"
        self.metavar = metavar or "|".join(words)
        self.completions = tuple(self.metavar.split("|"))

    def read(self, text: str) -> Any:
        word = text.lower() if self._any_case and text.isascii() else text
        if word not in self._words:
            raise Invalid(self.expects)
        return self._words[word]

    def show(self, value: Any) -> str:
        return next((word for word, meaning in self._words.items() if meaning == value), str(value))


def words(*names: str, any_case: bool = False) -> Choice:
    """Return a choice whose words stand for themselves."""
    return Choice({name: name for name in names}, any_case=any_case)


class Integer(Kind):
    """A whole number in [low, high]."""

    metavar = "N"

    def __init__(self, low: int, high: int, *, hexadecimal: bool = False, power_of_two: bool = False) -> None:
        self.limits = low, high
        self._convert = decimal_or_hex if hexadecimal else decimal
        self._power_of_two = power_of_two
        shape = "a power of two" if power_of_two else "a whole number"
        self.expects = f"{shape} from {low} to {high}" + (", decimal or 0x hexadecimal" if hexadecimal else "")

    def read(self, text: str) -> int:
        value = self._convert(text)
        if value is None or not self.limits[0] <= value <= self.limits[1]:
            raise Invalid(self.expects)
        if self._power_of_two and value & (value - 1):
            raise Invalid(self.expects)
        return value


class Size(Kind):
    """A number of bytes: digits and an optional K, M or G; without one, MiB. The value is in bytes."""

    metavar = "N[K|M|G]"

    def __init__(self, low: int, high: int) -> None:
        self._low, self._high = low, high
        self.expects = f"a size from {show_size(low)} to {show_size(high)}, in MiB or with a suffix K, M or G"

    def read(self, text: str) -> int:
        unit = _UNITS.get(text[-1:])
        number = decimal(text[:-1] if unit else text)
        if number is None:
            raise Invalid(self.expects)
        value = number * (unit or MIB)
        if not self._low <= value <= self._high:
            raise Invalid(self.expects)
        return value

    def show(self, value: int) -> str:
        return show_size(value)


class Text(Kind):
    """Printable text of `low` to `high` characters; `what` names it in documents."""

    def __init__(self, low: int, high: int, metavar: str = "TEXT") -> None:
        self._low, self._high = low, high
        self.metavar = metavar
        self.expects = f"{low} to {high} printable characters"

    def read(self, text: str) -> str:
        if not self._low <= len(text) <= self._high or not text.isprintable():
            raise Invalid(self.expects)
        return text


class Path(Kind):
    """A path of at most `high` bytes; relative ones are made absolute, because a daemon changes its directory.

    One that would grow beyond `high` that way stays relative: `sun_path` is short, and the directory may be deep.
    """

    metavar = "PATH"

    def __init__(self, high: int = 4096, *, must_be_absolute: bool = False) -> None:
        self._high = high
        self._must_be_absolute = must_be_absolute
        self.expects = f"{'an absolute' if must_be_absolute else 'a'} path of 1 to {high} bytes"

    def read(self, text: str) -> str:
        if not 0 < _encoded_length(text) <= self._high or "\0" in text:
            raise Invalid(self.expects)
        if text[0] == "/":
            return text
        if self._must_be_absolute:
            raise Invalid(self.expects)
        full = _absolute(text)
        return full if _encoded_length(full) <= self._high else text


def _encoded_length(text: str) -> int:
    """Bytes of a path; -1 for text that no path can be (lone surrogates, which JSON can spell)."""
    try:
        return len(os.fsencode(text))
    except UnicodeEncodeError:
        return -1


def _absolute(path: str) -> str:
    try:
        return os.path.join(os.getcwd(), path)
    except OSError as error:
        raise VmmError(f"cannot resolve the relative path {quote(path)}: {error.strerror}") from None


def show_size(value: int) -> str:
    """Return a byte count in its largest whole binary unit."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if value >= unit and value % unit == 0:
            return f"{value // unit} {name}"
    return f"{value} bytes"


FLAG = Flag()
BOOL = Choice({"on": True, "off": False, "true": True, "false": False, "yes": True, "no": False}, metavar="on|off")
TRUE_FALSE = Choice({"true": True, "false": False})
DISCARD = Choice(
    {"unmap": True, "ignore": False, "on": True, "off": False, "true": True, "false": False, "yes": True, "no": False},
    metavar="unmap|ignore",
)
TEXT = Text(1, 255)
ID = Text(1, 255, "ID")
PATH = Path()
SOCKET_PATH = Path(107)  # sun_path holds 108 bytes with its terminator
