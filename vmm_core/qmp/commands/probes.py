"""What libvirt asks before anything else, where nothing to report is the honest answer."""

from __future__ import annotations

from vmm_core.qmp.registry import COMMANDS, Context, NoArguments, command
from vmm_core.qmp.schema import EVENTS, schema
from vmm_core.qmp.version import VERSION

EMPTY_LISTS = ("query-gic-capabilities", "query-tpm-models", "query-tpm-types", "query-migrate-capabilities")


@command("query-version")
def query_version(_context: Context, _arguments: NoArguments) -> object:
    return VERSION


@command("query-commands")
def query_commands(_context: Context, _arguments: NoArguments) -> object:
    return [{"name": name} for name in sorted(COMMANDS)]


@command("query-events")
def query_events(_context: Context, _arguments: NoArguments) -> object:
    return [{"name": name} for name in sorted(EVENTS)]


@command("query-qmp-schema")
def query_qmp_schema(_context: Context, _arguments: NoArguments) -> object:
    return schema(COMMANDS)


def _nothing(_context: Context, _arguments: NoArguments) -> object:
    return []


for _name in EMPTY_LISTS:
    command(_name)(_nothing)
