"""`-daemonize`, `-pidfile`, `-D`, signals and exit statuses: what scripts and service managers build on."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.deadlines import Deadline
from tests.processes import LIMIT, TestMachine, connect
from tools.paths import ROOT

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}: \[\d+\]\[\d+\]\[[\w.]+:\d+\]:(\w+): .*")
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Daemon:
    """`stratovirt -daemonize` on the `test` accelerator, run to the end of its parent."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.directory = directory
        self.pidfile = directory / "vm.pid"
        self.driver: socket.socket | None = None
        with socket.socket(socket.AF_UNIX) as listener:
            listener.settimeout(LIMIT)
            listener.bind(str(directory / "driver.sock"))
            listener.listen(1)
            self.parent = subprocess.run(
                [
                    *(sys.executable, "-m", "vmm_core", "-accel", "test", "-mod-test", "driver.sock", "-daemonize"),
                    *("-qmp", "unix:qmp.sock,server,nowait", "-serial", "pty", "-pidfile", "vm.pid", *arguments),
                ],
                cwd=directory,
                capture_output=True,
                text=True,
                timeout=Deadline(LIMIT).seconds,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
            )
            if self.parent.returncode == 0:
                self.driver = listener.accept()[0]

    @property
    def pid(self) -> int:
        return int(self.pidfile.read_text())

    def end(self, how: Callable[[], object]) -> None:
        """Do `how` and wait until the daemon is gone."""
        ended = os.pidfd_open(self.pid)
        how()
        assert select.select([ended], [], [], Deadline(LIMIT).left())[0], "the daemon lives on"
        os.close(ended)

    def close(self) -> None:
        if self.driver is not None:
            self.driver.close()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path, "-D", "vm.log")
    assert (daemon.parent.returncode, daemon.parent.stdout) == (0, ""), daemon.parent.stderr
    yield daemon
    daemon.close()


def test_the_vm_is_up_when_the_parent_returns(daemon: Daemon) -> None:
    """Relative paths included: they mean the directory that the command was given in."""
    client = connect(daemon.directory / "qmp.sock")
    assert client.value("query-status")["running"] is True
    client.close()
    assert os.getsid(daemon.pid) not in (os.getsid(0), daemon.pid)
    assert {os.readlink(f"/proc/{daemon.pid}/fd/{fd}") for fd in range(3)} == {"/dev/null"}


def test_the_pidfile_is_private_holds_only_the_pid_and_goes_with_the_vm(daemon: Daemon) -> None:
    assert stat.S_IMODE(daemon.pidfile.stat().st_mode) == 0o600
    assert daemon.pidfile.read_bytes() == str(daemon.pid).encode()
    client = connect(daemon.directory / "qmp.sock")
    daemon.end(lambda: client.send(b'{"execute":"quit"}'))
    client.close()
    assert sorted(path.name for path in daemon.directory.iterdir()) == ["driver.sock", "vm.log"]


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_daemon_ends_by_signal_and_leaves_only_its_log(daemon: Daemon, number: signal.Signals) -> None:
    pid = daemon.pid
    daemon.end(lambda: os.kill(pid, number))
    assert sorted(path.name for path in daemon.directory.iterdir()) == ["driver.sock", "vm.log"]
    assert f"Guest shutdown by signal {number.value}" in (daemon.directory / "vm.log").read_text()


def test_an_existing_pidfile_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "vm.pid").write_text("1")
    daemon = Daemon(tmp_path)
    assert daemon.parent.returncode == 1
    assert "Pidfile path is existed yet." in daemon.parent.stderr
    assert (tmp_path / "vm.pid").read_text() == "1"
    assert not (tmp_path / "qmp.sock").exists()


def test_a_start_that_fails_is_told_by_the_parent(tmp_path: Path) -> None:
    (tmp_path / "qmp.sock").write_text("in the way")
    daemon = Daemon(tmp_path)
    assert daemon.parent.returncode == 1
    assert "qmp.sock: exists and is not a socket" in daemon.parent.stderr
    assert not daemon.pidfile.exists()


def test_a_pidfile_without_a_daemon_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="-pidfile must be used with -daemonize together"):
        TestMachine(tmp_path, "-serial", "pty", "-pidfile", str(tmp_path / "vm.pid"))


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_ends_the_vm_in_order(tmp_path: Path, number: signal.Signals) -> None:
    machine = TestMachine(tmp_path, "-serial", "pty")
    client = machine.qmp()
    machine.process.send_signal(number)
    event = client.message()
    assert (event["event"], event["data"]["reason"]) == ("SHUTDOWN", f"Guest shutdown by signal {number.value}")
    client.close()
    status, said = machine.wait()
    assert status == 0
    assert f"Received kill signal, signal number: {number.value}\n" in said
    assert not machine.qmp_path.exists()
    machine.close()


def test_sigpipe_does_not_end_the_vm(tmp_path: Path) -> None:
    machine = TestMachine(tmp_path, "-serial", "pty")
    machine.process.send_signal(signal.SIGPIPE)
    assert machine.qmp().value("query-status")["running"] is True
    machine.close()


def test_the_log_is_private_has_stratovirts_format_and_is_appended_to(tmp_path: Path) -> None:
    log = tmp_path / "vm.log"
    log.write_text("from an earlier run\n")
    log.chmod(0o640)
    for _ in range(2):
        machine = TestMachine(tmp_path, "-serial", "pty", "-D", str(log))
        machine.driver.close()
        assert machine.wait() == (0, "")
        machine.close()
    first, *lines = log.read_text().splitlines()
    assert first == "from an earlier run"
    assert [line for line in lines if not LINE.fullmatch(line)] == []
    assert sum("accelerator test" in line for line in lines) == 2


def test_a_new_log_is_readable_for_its_group_only(tmp_path: Path) -> None:
    machine = TestMachine(tmp_path, "-serial", "pty", "-D", str(tmp_path / "vm.log"))
    assert stat.S_IMODE((tmp_path / "vm.log").stat().st_mode) == 0o640
    machine.close()


@pytest.mark.parametrize(("level", "expected"), [("error", False), ("info", True), ("DEBUG", True), ("nonsense", True)])
def test_the_environment_sets_the_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: str, expected: bool
) -> None:
    monkeypatch.setenv("STRATOVIRT_LOG_LEVEL", level)
    machine = TestMachine(tmp_path, "-serial", "pty")
    machine.driver.close()
    status, said = machine.wait()
    assert status == 0
    assert (":INFO: accelerator test" in said) == expected
    machine.close()


def test_a_log_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"-D .*missing/vm.log: No such file or directory"):
        TestMachine(tmp_path, "-serial", "pty", "-D", str(tmp_path / "missing/vm.log"))


def test_a_vm_that_is_told_to_end_while_a_client_does_not_read_ends(tmp_path: Path) -> None:
    machine = TestMachine(tmp_path, "-serial", "pty")
    client = machine.qmp()
    client.send(b'{"execute":"query-qmp-schema"}' * 500)
    client.message()
    machine.process.send_signal(signal.SIGTERM)
    assert machine.wait()[0] == 0
    client.close()
    machine.close()
