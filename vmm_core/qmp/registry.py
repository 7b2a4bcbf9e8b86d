"""The table of commands: name, argument structure, function. The schema and `query-commands` are made from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from vmm_core.qmp.errors import QmpError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm_core.qmp.client import Client
    from vmm_core.vm import Vm


class NoArguments(msgspec.Struct, forbid_unknown_fields=True):
    """For commands that take none."""


class Deferred:
    """What a command returns whose answer comes later; its client's next commands wait for that."""

    def __init__(self) -> None:
        self._answer: Callable[[object], None] | None = None
        self._result: object = None
        self._settled = False

    def settle(self, result: object) -> None:
        """The answer: a value, or a QmpError. On the event loop's thread."""
        self._result, self._settled = result, True
        if self._answer is not None:
            self._answer(result)

    def when_settled(self, answer: Callable[[object], None]) -> None:
        """Call `answer(result)`, now or later."""
        self._answer = answer
        if self._settled:
            answer(self._result)


class Context(NamedTuple):
    """What a command works on."""

    vm: Vm
    client: Client


class Command(NamedTuple):
    name: str
    arguments: type[msgspec.Struct]
    function: Callable[[Context, Any], object]


COMMANDS: dict[str, Command] = {}


def command(
    name: str, arguments: type[msgspec.Struct] = NoArguments
) -> Callable[[Callable[[Context, Any], object]], Callable[[Context, Any], object]]:
    """Register a function as the QMP command `name`; it returns the answer's `return` value (None: `{}`)."""

    def register(function: Callable[[Context, Any], object]) -> Callable[[Context, Any], object]:
        COMMANDS[name] = Command(name, arguments, function)
        return function

    return register


def execute(context: Context, name: str, arguments: object) -> object:
    """Run a command with unchecked arguments; QmpError says what was wrong."""
    entry = COMMANDS.get(name)
    if entry is None:
        known = "see query-commands"
        raise QmpError(f"unknown variant `{name[:80]}`: The command {name[:80]} has not been found, {known}")
    try:
        checked = msgspec.convert(arguments, entry.arguments, strict=True)
    except msgspec.ValidationError as error:
        raise QmpError(f"{name}: {error}") from error
    result = entry.function(context, checked)
    return {} if result is None else result
