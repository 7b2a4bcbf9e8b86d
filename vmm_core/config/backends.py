"""`-backend`: how backend processes are restarted, confined and limited: one policy for all, one for each device."""

from __future__ import annotations

from vmm_core.config.addresses import IntegerList
from vmm_core.config.kinds import GIB, ID, KIB, Integer, Invalid, Kind, Size, decimal, quote, words
from vmm_core.config.records import DEFAULT_BACKEND, BackendPolicy
from vmm_core.config.table import Body, Key, read_body
from vmm_core.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm_core.config.draft import Draft

MAX_CPUS = 1024  # of the host, for percentages and lists
_RATE = Size(1, 1024 * GIB)
_OPERATIONS = Integer(1, 100_000_000)
_BACKS = ("id", "drive", "chardev", "netdev")  # a device without an id goes by the name of what backs it


class Percentage(Kind):
    """`50%`: of one CPU, so that two whole CPUs are 200%."""

    metavar = "N%"
    expects = f"a percentage of one CPU from 1% to {100 * MAX_CPUS}%"

    def read(self, text: str) -> int:
        value = decimal(text.removesuffix("%"))
        if value is None or not 1 <= value <= 100 * MAX_CPUS:
            raise Invalid(self.expects)
        return value


class Nice(Kind):
    """A scheduling priority, -20 (first) to 19 (last)."""

    metavar = "N"
    expects = "a whole number from -20 to 19"

    def read(self, text: str) -> int:
        value = decimal(text.removeprefix("-"))
        if value is None or not -20 <= (value := -value if text.startswith("-") else value) <= 19:
            raise Invalid(self.expects)
        return value


BACKEND = Body(
    "",
    "policy for one device's backend process, or for all of them",
    (
        Key("id", ID, "the device's id (if none, its drive's or chardev's), or default: all devices", required=True),
        Key(
            "restart",
            words("on-failure", "always", "never"),
            "after which end it is started again: a failure, any, or none; default on-failure",
        ),
        Key("max-restarts", Integer(0, 1_000_000), "restarts within the window before it is given up; default 10"),
        Key("window", Integer(1, 86_400), "seconds that max-restarts counts; default 60"),
        Key("backoff", Integer(0, 60_000), "milliseconds before a restart, doubling while it fails; default 0"),
        Key("sandbox", words("default", "strict"), "strict: refuse to run without the whole sandbox; default default"),
        Key("cpu-max", Percentage(), "share of CPU time at most"),
        Key("memory-max", Size(4096 * KIB, 1024 * GIB), "memory of its own at most"),
        Key("pids-max", Integer(1, 100_000), "processes and threads at most"),
        Key("io-read-bps", _RATE, "bytes read a second at most"),
        Key("io-write-bps", _RATE, "bytes written a second at most"),
        Key("io-read-iops", _OPERATIONS, "reads a second at most"),
        Key("io-write-iops", _OPERATIONS, "writes a second at most"),
        Key("cpus", IntegerList(MAX_CPUS - 1), "CPUs of the host that it may run on"),
        Key("nice", Nice(), "scheduling priority, -20 first to 19 last"),
    ),
    first="id",
    mark="B",
)
BODIES = {"backend": (BACKEND,)}


def resolve(draft: Draft) -> tuple[BackendPolicy, ...]:
    """Return each named device's policy, what it leaves open taken from the default one, which comes last."""
    known = {name for _, values in draft.devices if (name := _name(values))}
    common = draft.backends.get(DEFAULT_BACKEND, {})
    for name in draft.backends:
        if name not in known and name != DEFAULT_BACKEND:
            from vmm_core.config.suggest import hint

            raise VmmError(f"-backend: there is no device {quote(name)}{hint(name, known)}")
    named = [name for name in draft.backends if name != DEFAULT_BACKEND]
    order = [(name, {**common, **draft.backends[name]}) for name in named]
    return tuple(BackendPolicy(**{**given, "id": name}) for name, given in [*order, (DEFAULT_BACKEND, common)])


def _name(values: dict[str, Any]) -> str:
    return next((values[key] for key in _BACKS if values.get(key)), "")


def _read_backend(draft: Draft, text: str) -> None:
    values = read_body(BACKEND, text)
    name = values["id"]
    if name in draft.backends:
        raise VmmError(f"the policy of {quote(name)} was given before")
    given = {key.replace("-", "_"): value for key, value in values.items() if value is not None}
    draft.backends[name] = given


READERS = {"backend": _read_backend}
