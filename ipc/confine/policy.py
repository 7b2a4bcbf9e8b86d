"""Policies: which system calls a process may still make, as text beside the code that it confines.

    @include ../runtime/common.policy     another file, relative to this one
    @default trap                         what happens to any other call: trap (the process dies) or `return ERRNO`
    read                                  allowed
    fcntl: arg1 == F_GETFL || arg1 == F_SETFL && arg2 == O_NONBLOCK
    mmap: arg2 ~ PROT_EXEC == 0           under a mask
    openat: return ENOENT                 fails, harmlessly
    execve: trap                          the process dies, whatever the default is

Operators: == != < <= > >=, and `~ MASK ==`; values are numbers, names (constants.py; SELF is the process's id) and
their `|` sums. `||` binds weaker than `&&`. Everything wrong is a PolicyError that names file and line.
"""

from __future__ import annotations

import errno
import os

from ipc.confine._seccomp import lib
from ipc.confine.constants import CONSTANTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

OPERATORS = {"!=": 1, "<": 2, "<=": 3, "==": 4, ">=": 5, ">": 6}
MASKED = 7
MAX_DEPTH = 8
SELF = 0x5E1F5E1F  # stands for the process's id in a compiled filter, which is put there when the filter is loaded
ALLOW, TRAP = lib.SC_ACT_ALLOW, lib.SC_ACT_TRAP


class PolicyError(Exception):
    """`FILE:LINE: what is wrong`."""


class Compare:
    """`argN OP value`; for MASKED, `value` is the mask and `masked` what must be left under it."""

    __slots__ = ("argument", "masked", "op", "value")

    def __init__(self, argument: int, op: int, value: int, masked: int = 0) -> None:
        self.argument = argument
        self.op = op
        self.value = value
        self.masked = masked


class Rule:
    """One alternative of one line: `action` for call `number` if all `compares` hold."""

    __slots__ = ("action", "compares", "name", "number", "place")

    def __init__(self, name: str, number: int, action: int, compares: list[Compare], place: str) -> None:
        self.name = name
        self.number = number
        self.action = action
        self.compares = compares
        self.place = place


class Policy:
    """What a file and its includes say. Calls that this architecture does not have are left out."""

    def __init__(self) -> None:
        self.default = TRAP
        self.rules: list[Rule] = []
        self.places: dict[str, str] = {}
        self.files: list[str] = []

    def add(self, name: str, number: int, action: int, alternatives: list[list[Compare]], place: str) -> None:
        """Enter one line; PolicyError when another line has that name."""
        if name in self.places:
            raise PolicyError(f"{place}: {name} has a rule at {self.places[name]} already")
        self.places[name] = place
        if number >= 0:
            self.rules += [Rule(name, number, action, compares, place) for compares in alternatives]


def read_policy(path: str) -> Policy:
    """Read `path` and what it includes."""
    policy = Policy()
    _read_into(policy, path, path, 0)
    return policy


def _read_into(policy: Policy, path: str, place: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise PolicyError(f"{place}: includes more than {MAX_DEPTH} deep")
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"{place}: cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    policy.files.append(path)
    for number, text in enumerate(lines, 1):
        line = text.split("#", 1)[0].strip()
        if line.startswith("@"):
            _directive(policy, path, line, f"{path}:{number}", depth)
        elif line:
            _rule(policy, line, f"{path}:{number}")


def _directive(policy: Policy, path: str, line: str, place: str, depth: int) -> None:
    word, _, rest = line.partition(" ")
    rest = rest.strip()
    if word == "@include" and rest:
        _read_into(policy, os.path.join(os.path.dirname(path), rest), place, depth + 1)
    elif word == "@default":
        policy.default = _action(rest, place)
    else:
        raise PolicyError(f"{place}: {line!r} is neither @include FILE nor @default ACTION")


def _rule(policy: Policy, line: str, place: str) -> None:
    name, colon, condition = line.partition(":")
    name, condition = name.strip(), condition.strip()
    number = lib.sc_syscall_number(name.encode("ascii", "replace"))
    if number == lib.SC_SYSCALL_UNKNOWN:
        raise PolicyError(f"{place}: there is no system call {name!r}")
    if not colon:
        policy.add(name, number, ALLOW, [[]], place)
    elif not condition:
        raise PolicyError(f"{place}: nothing after {name!r}:")
    elif condition.startswith(("return ", "trap")):
        policy.add(name, number, _action(condition, place), [[]], place)
    else:
        alternatives = [list(_compares(words, place)) for words in condition.split("||")]
        policy.add(name, number, ALLOW, alternatives, place)


def _action(text: str, place: str) -> int:
    words = text.split()
    if words == ["trap"]:
        return int(TRAP)
    if len(words) == 2 and words[0] == "return":
        number = getattr(errno, words[1], None)
        if isinstance(number, int):
            return int(lib.SC_ACT_ERRNO) | number
        raise PolicyError(f"{place}: there is no error {words[1]!r}")
    raise PolicyError(f"{place}: {text!r} is neither trap nor return ERRNO")


def _compares(text: str, place: str) -> Iterator[Compare]:
    for part in text.split("&&"):
        words = part.split()
        if len(words) == 3 and words[1] in OPERATORS:
            yield Compare(_argument(words[0], place), OPERATORS[words[1]], _value(words[2], place))
        elif len(words) == 5 and words[1] == "~" and words[3] == "==":
            mask, left = _value(words[2], place), _value(words[4], place)
            yield Compare(_argument(words[0], place), MASKED, mask, left)
        else:
            raise PolicyError(f"{place}: {part.strip()!r} is neither argN OP VALUE nor argN ~ MASK == VALUE")


def _argument(word: str, place: str) -> int:
    if len(word) == 4 and word.startswith("arg") and word[3] in "012345":
        return int(word[3])
    raise PolicyError(f"{place}: {word!r} is not an argument (arg0 to arg5)")


def _value(word: str, place: str) -> int:
    value = 0
    for name in word.split("|"):
        try:
            value |= CONSTANTS[name] if name in CONSTANTS else SELF if name == "SELF" else int(name, 0)
        except ValueError:
            raise PolicyError(f"{place}: {name!r} is neither a number nor a known name") from None
    if not 0 <= value < 1 << 64:
        raise PolicyError(f"{place}: {word} does not fit in 64 bits")
    return value
