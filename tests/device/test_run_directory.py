"""A VM can be found by whoever may look, and nothing of it is left when it is gone; systemd hears how it fares."""

from __future__ import annotations

import os
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deadlines import Deadline
from tests.processes import LIMIT, RawQmp, TestMachine, connect


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where VMs of this test make their directories."""
    monkeypatch.setenv("STRATOCELL_RUN_DIR", str(tmp_path / "run"))
    return tmp_path / "run"


@pytest.fixture
def machine(tmp_path: Path, run: Path) -> Iterator[TestMachine]:
    machine = TestMachine(tmp_path, "-name", "web 1")
    yield machine
    machine.close()


def monitor(run: Path, name: str) -> RawQmp:
    return connect(run / name / "monitor.sock")


def test_a_vm_is_found_under_its_name_by_its_owner_alone(machine: TestMachine, run: Path) -> None:
    client = monitor(run, "web_1")
    assert client.value("query-status")["running"] is True
    assert stat.S_IMODE(run.stat().st_mode) == 0o700
    assert stat.S_IMODE((run / "web_1").stat().st_mode) == 0o700
    assert stat.S_IMODE((run / "web_1" / "monitor.sock").stat().st_mode) == 0o600


def test_it_is_gone_when_the_vm_is(machine: TestMachine, run: Path) -> None:
    monitor(run, "web_1").value("quit")
    machine.wait()
    assert list(run.iterdir()) == []


def test_a_second_vm_of_that_name_has_its_number_added(machine: TestMachine, run: Path, tmp_path: Path) -> None:
    monitor(run, "web_1")
    (tmp_path / "second").mkdir()
    second = TestMachine(tmp_path / "second", "-name", "web 1")
    monitor(run, f"web_1-{second.process.pid}")
    second.close()
    assert (run / "web_1" / "monitor.sock").exists()


def test_what_a_killed_vm_left_is_removed_by_the_next(machine: TestMachine, run: Path, tmp_path: Path) -> None:
    monitor(run, "web_1")
    machine.process.kill()
    machine.wait()
    assert (run / "web_1").exists()
    (tmp_path / "second").mkdir()
    second = TestMachine(tmp_path / "second")
    monitor(run, str(second.process.pid))
    assert [path.name for path in run.iterdir()] == [str(second.process.pid)]
    second.close()


def test_a_link_in_the_run_directory_leads_nowhere(tmp_path: Path, run: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "monitor.sock").write_text("not ours")
    run.mkdir(mode=0o700)
    (run / "old").symlink_to(elsewhere)
    (run / "web").symlink_to(elsewhere)
    machine = TestMachine(tmp_path, "-name", "web")
    monitor(run, f"web-{machine.process.pid}").value("query-status")
    machine.close()
    assert [path.name for path in elsewhere.iterdir()] == ["monitor.sock"]
    assert (elsewhere / "monitor.sock").read_text() == "not ours"


def test_a_special_file_in_the_run_directory_is_neither_opened_nor_removed(tmp_path: Path, run: Path) -> None:
    run.mkdir(mode=0o700)
    for name in ("old", "web"):
        os.mkfifo(run / name)
    machine = TestMachine(tmp_path, "-name", "web")
    monitor(run, f"web-{machine.process.pid}").value("query-status")
    machine.close()
    assert stat.S_ISFIFO((run / "old").lstat().st_mode)
    assert stat.S_ISFIFO((run / "web").lstat().st_mode)


def test_a_place_that_others_may_write_to_is_not_used(tmp_path: Path, run: Path) -> None:
    run.mkdir()
    run.chmod(0o777)
    machine = TestMachine(tmp_path)
    machine.qmp().value("query-status")
    machine.process.send_signal(signal.SIGTERM)
    assert "others may write there" in machine.wait()[1]
    assert list(run.iterdir()) == []


def test_a_vm_that_cannot_have_such_a_place_runs_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a directory")
    monkeypatch.setenv("STRATOCELL_RUN_DIR", str(tmp_path / "file"))
    machine = TestMachine(tmp_path)
    assert machine.qmp().value("query-status")["running"] is True
    machine.process.send_signal(signal.SIGTERM)
    assert "no run directory" in machine.wait()[1]


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_hears_of_the_start_the_life_and_the_end(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool
) -> None:
    address = f"stratocell-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.settimeout(Deadline(LIMIT).seconds)
    listener.bind("\0" + address if abstract else address)
    monkeypatch.setenv("NOTIFY_SOCKET", "@" + address if abstract else address)
    monkeypatch.setenv("WATCHDOG_USEC", "100000")
    machine = TestMachine(tmp_path)
    first = listener.recv(1000).decode().split("\n")
    assert first[:2] == ["READY=1", f"MAINPID={machine.process.pid}"]
    assert listener.recv(1000) == b"WATCHDOG=1"
    assert listener.recv(1000) == b"WATCHDOG=1"
    machine.process.send_signal(signal.SIGTERM)
    said = b""
    while said != b"STOPPING=1":
        said = listener.recv(1000)
    machine.close()
    listener.close()


def test_a_watchdog_meant_for_another_process_is_not_fed(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.settimeout(Deadline(LIMIT).seconds)
    listener.bind(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "1000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    machine = TestMachine(tmp_path)
    assert listener.recv(1000).startswith(b"READY=1")
    machine.process.send_signal(signal.SIGTERM)
    assert listener.recv(1000) == b"STOPPING=1"
    machine.close()
    listener.close()
