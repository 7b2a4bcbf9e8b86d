"""`query-qmp-schema`: the command table in QEMU's introspection format (QEMU, QMP introspection)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, get_origin

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmm_core.qmp.registry import Command

Entry = dict[str, Any]

EVENTS: dict[str, dict[str, str]] = {  # name: members of its data
    "SHUTDOWN": {"guest": "bool", "reason": "str"},
    "RESET": {"guest": "bool"},
    "STOP": {},
    "RESUME": {},
    "POWERDOWN": {},
    "BACKEND_DIED": {"id": "str", "pid": "int", "reason": "str"},
    "BACKEND_RESTARTED": {"id": "str", "pid": "int", "blackout": "int", "restarts": "int"},
    "BACKEND_UPGRADED": {"id": "str", "pid": "int", "blackout": "int"},
    "BACKEND_FAILED": {"id": "str", "reason": "str"},
}
BUILT_IN = {"str": "string", "int": "int", "bool": "boolean", "any": "value", "null": "null"}
SCALARS: dict[type, str] = {str: "str", int: "int", bool: "bool"}


def schema(commands: Mapping[str, Command]) -> list[Entry]:
    """Describe every command, its arguments and every event; what commands return is documented, not typed: `any`."""
    entries: list[Entry] = [{"name": "any", "meta-type": "builtin", "json-type": "value"}]
    entries += [
        {"name": name, "meta-type": "builtin", "json-type": kind} for name, kind in BUILT_IN.items() if name != "any"
    ]
    entries.append({"name": "[str]", "meta-type": "array", "element-type": "str"})
    for name in sorted(commands):
        arguments = f"{name}-arguments"
        entries.append({"name": arguments, "meta-type": "object", "members": _members(commands[name].arguments)})
        entries.append(
            {"name": name, "meta-type": "command", "arg-type": arguments, "ret-type": "any", "allow-oob": False}
        )
    for name, data in EVENTS.items():
        members = [{"name": member, "type": kind} for member, kind in data.items()]
        entries.append({"name": f"{name}-data", "meta-type": "object", "members": members})
        entries.append({"name": name, "meta-type": "event", "arg-type": f"{name}-data"})
    return entries


def _members(structure: type[msgspec.Struct]) -> list[Entry]:
    return [_member(field) for field in msgspec.structs.fields(structure)]


def _member(field: msgspec.structs.FieldInfo) -> Entry:
    kind = field.type.__origin__ if get_origin(field.type) is Annotated else field.type
    entry: Entry = {"name": field.encode_name, "type": SCALARS.get(kind, "[str]")}
    if not field.required:
        entry["default"] = None
    return entry
