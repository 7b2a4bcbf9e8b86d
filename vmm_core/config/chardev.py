"""`-chardev` and `-serial` (facts 1.7; the user's document, "chardev" and "Serial Port Configuration")."""

from __future__ import annotations

from vmm_core.config.addresses import IP, PORT
from vmm_core.config.draft import add_unique
from vmm_core.config.kinds import FLAG, ID, PATH, SOCKET_PATH
from vmm_core.config.records import ChardevConfig
from vmm_core.config.table import Body, Key, by_name, read_class, read_value
from vmm_core.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm_core.config.draft import Draft

SERIAL_CHARDEV = "serial_chardev"  # the id of a chardev that -serial creates

_ID = Key("id", ID, "name of the chardev", required=True)
_BACKENDS: tuple[tuple[str, str, bool, tuple[Key, ...]], ...] = (
    ("stdio", "the terminal that the VM was started from", True, ()),
    ("pty", "a new pseudo terminal; its name is in the log and in QMP query-chardev", True, ()),
    ("file", "a file that is written only", True, (Key("path", PATH, "file to write", required=True),)),
    (
        "socket",
        "a unix socket (path) or a TCP socket (port)",
        True,
        (
            Key("path", SOCKET_PATH, "path of a unix socket"),
            Key("port", PORT, "TCP port"),
            Key("host", IP, "address of the TCP port; default 0.0.0.0"),
            Key("server", FLAG, "listen instead of connect", False),
            Key("nowait", FLAG, "start without waiting for a client", False),
        ),
    ),
    ("redirect-to-log", "the VM's log", False, ()),
)
CHARDEVS = by_name(
    Body(name, help, (_ID, *keys), mark="V" if built else "B", built=built) for name, help, built, keys in _BACKENDS
)
SERIALS = by_name(
    Body(name, help, keys, mark="V" if built else "B", built=built) for name, help, built, keys in _BACKENDS
)
SERIAL_BY_ID = Body("chardev:ID", "the chardev with this id", ())
BODIES = {"chardev": tuple(CHARDEVS.values()), "serial": (SERIAL_BY_ID, *SERIALS.values())}


def _record(draft: Draft, body: Body, values: dict[str, Any], name: str) -> ChardevConfig:
    add_unique((chardev.id for chardev in draft.chardevs), name, "Chardev")
    if body.name == "socket":
        _check_socket(values)
    if not body.built:
        draft.unbuilt.append(f"chardev {body.name}")
    return ChardevConfig(
        id=name,
        kind=body.name,
        path=values.get("path"),
        host=values.get("host") or "0.0.0.0",
        port=values.get("port"),
        server=values.get("server", False),
        nowait=values.get("nowait", False),
    )


def _check_socket(values: dict[str, Any]) -> None:
    if values["path"] and (values["port"] or values["host"]):
        raise VmmError("a socket has either a path or a host and port, not both")
    if not values["path"] and not values["port"]:
        raise VmmError("a socket needs a path or a port")


def _read_chardev(draft: Draft, text: str) -> None:
    body, values = read_class(CHARDEVS, text)
    draft.chardevs.append(_record(draft, body, values, values["id"]))


def _read_serial(draft: Draft, text: str) -> None:
    text = text.removesuffix(",")
    if text.startswith("chardev:"):
        draft.serial = read_value("chardev", ID, text.removeprefix("chardev:"))
        return
    body, values = read_class(SERIALS, text)
    draft.chardevs.append(_record(draft, body, values, SERIAL_CHARDEV))
    draft.serial = SERIAL_CHARDEV


READERS = {"chardev": _read_chardev, "serial": _read_serial}
