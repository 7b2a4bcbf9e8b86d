"""What the option table is made of, and the reader of one option's body (`a,b=c,d`) that the table drives."""

from __future__ import annotations

from vmm_core.config.kinds import FLAG, Invalid, Kind, quote
from vmm_core.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

# How many values an option takes.
NONE, ONE, OPTIONAL, MANY, ANY = "none", "one", "optional", "many", "any"


class Option:
    """One top-level option.

    `mark`: V (in the user's document), B (beyond it), L (accepted for libvirt's sake, no effect).
    `family`: the module of this package that reads the bodies and holds their tables; else `kind` reads the one value.
    """

    __slots__ = ("aliases", "built", "family", "help", "kind", "mark", "name", "values")

    def __init__(
        self,
        name: str,
        mark: str,
        values: str,
        help: str,
        *,
        kind: Kind | None = None,
        family: str = "",
        aliases: tuple[str, ...] = (),
        built: bool = True,
    ) -> None:
        self.name, self.mark, self.values, self.help = name, mark, values, help
        self.kind, self.family, self.aliases, self.built = kind, family, aliases, built


class Key:
    """One sub-parameter: its default is the typed value, None when there is none."""

    __slots__ = ("aliases", "default", "help", "kind", "mark", "name", "required")

    def __init__(
        self,
        name: str,
        kind: Kind,
        help: str,
        default: Any = None,
        *,
        required: bool = False,
        aliases: tuple[str, ...] = (),
        mark: str = "",
    ) -> None:
        self.name, self.kind, self.help, self.default = name, kind, help, default
        self.required, self.aliases, self.mark = required, aliases, mark


class Body:
    """The sub-parameters of an option, or of one class of it (`-chardev socket`, `-device virtio-blk-device`).

    `first`: the key whose value may stand first without its name. `transport` is for devices: mmio, pci, usb, other.
    """

    __slots__ = ("built", "first", "help", "keys", "mark", "name", "transport")

    def __init__(
        self,
        name: str,
        help: str,
        keys: tuple[Key, ...],
        *,
        first: str = "",
        mark: str = "V",
        built: bool = True,
        transport: str = "",
    ) -> None:
        self.name, self.help, self.keys, self.first = name, help, keys, first
        self.mark, self.built, self.transport = mark, built, transport

    def index(self) -> dict[str, Key]:
        """Return every spelling of every key."""
        found = {key.name: key for key in self.keys}
        for key in self.keys:
            for alias in key.aliases:
                found[alias] = key
        return found


def by_name(bodies: Iterable[Body]) -> dict[str, Body]:
    """Return the classes of one option by their names."""
    return {body.name: body for body in bodies}


def split_body(text: str) -> list[tuple[str, str | None]]:
    """Split on commas, then at the first `=`; one trailing comma is harmless (the user's document has one)."""
    parts = text.split(",")
    if len(parts) > 1 and not parts[-1]:
        parts.pop()
    pairs: list[tuple[str, str | None]] = []
    for part in parts:
        word, equals, value = part.partition("=")
        if not word:
            raise VmmError("a parameter is empty" if not equals else f"a value without a name: {quote(part)}")
        pairs.append((word, value if equals else None))
    return pairs


def read_body(body: Body, text: str) -> dict[str, Any]:
    """Read the sub-parameters in `text`; defaults are filled in, keys that may be absent are None."""
    return read_pairs(body, split_body(text) if text else [])


def read_pairs(body: Body, pairs: list[tuple[str, str | None]]) -> dict[str, Any]:
    """Read already separated sub-parameters: the tail of `read_body`, and what a caller with a mapping uses."""
    index = body.index()
    values: dict[str, Any] = {}
    for position, (word, value) in enumerate(pairs):
        if position == 0 and body.first:
            word, value = _name_first(body, index, word, value)
        key = index.get(word) or _unknown_key(body, word)
        if key.name in values:
            raise VmmError(f"the argument '{key.name}' cannot be used multiple times")
        values[key.name] = read_value(key.name, key.kind, value)
    for key in body.keys:
        if key.name not in values:
            if key.required:
                raise VmmError(f"the required argument '{key.name}' was not provided ({key.help})")
            values[key.name] = key.default
    return values


def _name_first(body: Body, index: dict[str, Key], word: str, value: str | None) -> tuple[str, str | None]:
    """Give the first word its key's name, if it stands without one; a URI there may hold `=` itself."""
    if value is None and (word not in index or index[word].kind is not FLAG):
        return body.first, word
    if value is not None and ":" in word:
        return body.first, f"{word}={value}"
    return word, value


def read_value(name: str, kind: Kind, text: str | None) -> Any:
    """Read one value; raises VmmError that names the sub-parameter and what is expected."""
    if text is None:
        if kind is FLAG:
            return True
        raise VmmError(f"a value is required for '{name}' but none was supplied: expected {kind.expects}")
    try:
        return kind.read(text)
    except Invalid as error:
        raise VmmError(f"invalid value {quote(text)} for '{name}': expected {error}") from None


def read_class(bodies: Mapping[str, Body], text: str, label: str = "") -> tuple[Body, dict[str, Any]]:
    """Read a body whose first word names its class, as `-chardev socket,...` (or `-smbios type=0,...` with a label)."""
    first, _, rest = text.partition(",")
    name = first[len(label) :] if label and first.startswith(label) else first
    body = bodies.get(name)
    if body is None:
        from vmm_core.config.suggest import hint

        choices = ", ".join(bodies)
        raise VmmError(f"unknown type {quote(name)}: expected one of {choices}{hint(name, bodies)}")
    return body, read_body(body, rest)


def _unknown_key(body: Body, word: str) -> Key:
    from vmm_core.config.suggest import hint

    raise VmmError(f"unexpected argument {quote(word)} found{hint(word, body.index())}")
