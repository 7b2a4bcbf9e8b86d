"""The log file of `-D`: rotated when it is full or yesterday's, seven old ones kept, never a reason to fail."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmm_core import log, logfile
from vmm_core.errors import VmmError
from vmm_core.logfile import LogFile
from vmm_core.loop import EventLoop

DAY = 86400


@pytest.fixture(autouse=True)
def standard_error() -> Iterator[None]:
    yield
    log.configure(2, None)


def test_a_full_log_makes_room_and_keeps_seven_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logfile, "MAX_SIZE", 1)
    file = LogFile(str(tmp_path / "vm.log"))
    for number in range(10):
        log.info(f"line {number}")
        assert file.rotate_if_due()
    log.info("the last line")
    assert {path.name for path in tmp_path.iterdir()} == {"vm.log", *(f"vm.log.{number}" for number in range(1, 8))}
    assert "the last line" in (tmp_path / "vm.log").read_text()
    assert ["line 9" in (tmp_path / "vm.log.1").read_text(), "line 3" in (tmp_path / "vm.log.7").read_text()] == [
        True
    ] * 2


def test_yesterdays_log_is_put_away(tmp_path: Path) -> None:
    path = tmp_path / "vm.log"
    path.write_text("yesterday\n")
    os.utime(path, (time.time() - DAY, time.time() - DAY))
    file = LogFile(str(path))
    assert file.rotate_if_due()
    log.info("today")
    assert not file.rotate_if_due()
    assert (tmp_path / "vm.log.1").read_text() == "yesterday\n"
    assert "today" in path.read_text()


def test_a_log_that_cannot_be_rotated_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logfile, "MAX_SIZE", 1)
    file = LogFile(str(tmp_path / "vm.log"))
    log.info("first")
    monkeypatch.setattr(os, "rename", _no_rename)
    assert not file.rotate_if_due()
    log.info("second")
    assert (tmp_path / "vm.log").read_text().count("\n") == 3


def _no_rename(*_paths: str) -> None:
    raise OSError("the directory is read-only")


def test_rotation_leaks_no_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logfile, "MAX_SIZE", 0)
    file = LogFile(str(tmp_path / "vm.log"))
    before = os.listdir("/proc/self/fd")
    for _ in range(100):
        assert file.rotate_if_due()
    assert os.listdir("/proc/self/fd") == before


def test_the_event_loop_looks_after_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logfile, "CHECK_SECONDS", 0.0)
    monkeypatch.setattr(logfile, "MAX_SIZE", 1)
    file = LogFile(str(tmp_path / "vm.log"))
    log.info("much too long")
    loop = EventLoop()
    file.watch(loop)
    loop.run_once(1)
    loop.close()
    assert (tmp_path / "vm.log.1").exists()


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(VmmError, match="missing"):
        LogFile(str(tmp_path / "missing/vm.log"))


def test_control_characters_cannot_forge_a_line(tmp_path: Path) -> None:
    LogFile(str(tmp_path / "vm.log"))
    log.info("guest said\n2026-01-01T00:00:00: all is well\x1b[2J\udcff")
    text = (tmp_path / "vm.log").read_text()
    assert text.count("\n") == 1
    assert "\x1b" not in text
