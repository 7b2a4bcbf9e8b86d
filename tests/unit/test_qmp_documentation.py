"""docs/qmp.md names every command, argument and event there is, and none that there is not."""

from __future__ import annotations

import re

import msgspec

from tools.paths import ROOT
from vmm_core.qmp import commands as _commands  # noqa: F401  (registers them)
from vmm_core.qmp.client import MAX_BACKLOG, MAX_FDS
from vmm_core.qmp.monitor import MAX_UNHEARD
from vmm_core.qmp.registry import COMMANDS
from vmm_core.qmp.schema import EVENTS
from vmm_core.qmp.stream import MAX_DEPTH, MAX_MESSAGE

TEXT = (ROOT / "docs/qmp.md").read_text()


def rows(heading: str) -> dict[str, str]:
    """The table below `heading`: first column without quotes, second column."""
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    table = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    return {cells[0].strip(" `"): cells[1] for cells in table}


def test_every_command_is_described_with_its_arguments() -> None:
    described = {name: set(re.findall(r"`([\w?-]+)`", arguments)) for name, arguments in rows("Commands").items()}
    expected = {
        name: {field.encode_name + ("" if field.required else "?") for field in msgspec.structs.fields(entry.arguments)}
        for name, entry in COMMANDS.items()
    }
    assert described == expected


def test_every_event_is_described_with_its_data() -> None:
    described = {name: set(re.findall(r"`(\w+)`", data)) for name, data in rows("Events").items()}
    assert described == {name: set(data) for name, data in EVENTS.items()}


def test_the_limits_are_those_of_the_code() -> None:
    limits = TEXT.split("## What a client cannot do")[1].split("\n## ")[0]
    assert f"{MAX_MESSAGE >> 10} KiB, {MAX_DEPTH} levels" in limits
    assert (
        f"at {MAX_BACKLOG >> 12} KiB its further commands wait, at {MAX_BACKLOG >> 20} MiB it is disconnected" in limits
    )
    assert f"{MAX_FDS} with one command" in limits
    assert f"Up to {MAX_UNHEARD} wait" in TEXT
