"""A disk that no guest has touched yet: its backend waits ungreeted, and is upgraded like any other."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import Message, RawQmp, TestMachine


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[TestMachine]:
    image = tmp_path / "image"
    image.write_bytes(b"")
    os.truncate(image, 1 << 20)
    drive = ("-drive", f"file={image},id=d0,direct=off", "-device", "virtio-blk-device,drive=d0,id=data")
    made = TestMachine(tmp_path, *drive)
    yield made
    made.close()


def answer(qmp: RawQmp, command: str, /, **arguments: object) -> Message:
    """The answer; events may come before it."""
    qmp.send(json.dumps({"execute": command, "arguments": arguments}).encode())
    while "event" in (message := qmp.message()):
        pass
    return message


def backend(qmp: RawQmp) -> Message:
    (found,) = answer(qmp, "x-query-backends")["return"]
    return dict(found)


def running(qmp: RawQmp) -> Message:
    while not (found := backend(qmp))["pid"]:
        pass
    return found


def test_an_upgrade_that_fails_leaves_the_old_backend_in_its_place(machine: TestMachine) -> None:
    qmp = machine.qmp()
    before = running(qmp)
    refused = answer(qmp, "x-backend-upgrade", id="data", command="/bin/false")["error"]["desc"]
    assert refused.endswith("; the old backend serves on")
    after = backend(qmp)
    assert (after["pid"], after["state"], after["restarts"]) == (before["pid"], "running", 0)
    qmp.close()


def test_an_upgrade_replaces_it(machine: TestMachine) -> None:
    qmp = machine.qmp()
    before = running(qmp)
    upgraded = answer(qmp, "x-backend-upgrade", id="data")["return"]
    after = backend(qmp)
    assert after["pid"] == upgraded["pid"] != before["pid"]
    assert (after["state"], after["restarts"]) == ("running", 0)
    qmp.close()
