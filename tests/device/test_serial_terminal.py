"""The user's own terminal: raw while the VM runs, as it was on every way out, a crash included."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.device.test_serial_chardevs import receive
from tests.processes import TestMachine


class Console:
    """A VM with `-serial stdio` in a terminal of its own."""

    def __init__(self, directory: Path) -> None:
        self.keyboard, self._terminal = os.openpty()
        self.before = self.settings()
        # A shell's background jobs, perhaps this very test run, ignore SIGQUIT, and their children with them.
        self.machine = TestMachine(
            directory, "-serial", "stdio", stdin=self._terminal, stdout=self._terminal, preexec_fn=heed_quit
        )

    def settings(self) -> list[object]:
        return list(termios.tcgetattr(self._terminal))

    def is_raw(self) -> bool:
        flags = termios.tcgetattr(self._terminal)[3]
        return not flags & (termios.ICANON | termios.ECHO | termios.ISIG)

    def close(self) -> None:
        self.machine.close()
        os.close(self.keyboard)
        os.close(self._terminal)


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    console = Console(tmp_path)
    yield console
    console.close()


def heed_quit() -> None:
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def test_every_key_reaches_the_guest_ctrl_c_too(console: Console) -> None:
    keys = b"ls\r\x03\x04\x1a\x1c\x13\x11\x7f\xc3\xa9"
    os.write(console.keyboard, keys)
    assert console.machine.read_serial(len(keys)) == keys
    console.machine.print(b"line\n")
    assert receive(console.keyboard, 6) == b"line\r\n"  # the terminal still returns the carriage for log lines


def test_ctrl_a_x_ends_the_vm(console: Console) -> None:
    qmp = console.machine.qmp()
    os.write(console.keyboard, b"\x01x")
    assert qmp.message()["data"] == {"guest": False, "reason": "terminal"}
    assert console.machine.wait()[0] == 0
    assert console.settings() == console.before


def test_ctrl_a_twice_is_one_and_with_another_key_both_arrive(console: Console) -> None:
    os.write(console.keyboard, b"\x01\x01x\x01b")
    assert console.machine.read_serial(4) == b"\x01x\x01b"


def by_quit(console: Console) -> None:
    console.machine.qmp().send(b'{"execute":"quit"}')


def by_signal(number: int) -> Callable[[Console], None]:
    return lambda console: os.kill(console.machine.process.pid, number)


@pytest.mark.parametrize(
    ("end", "status"),
    [
        pytest.param(by_quit, 0, id="quit"),
        pytest.param(lambda console: console.machine.driver.close(), 0, id="the machine's end"),
        *(
            pytest.param(by_signal(number), 0, id=number.name)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        ),
        *(
            pytest.param(by_signal(number), -number, id=number.name)
            for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGQUIT, signal.SIGSYS)
        ),
    ],
)
def test_the_terminal_is_as_before(console: Console, end: Callable[[Console], None], status: int) -> None:
    console.machine.drive("inb 0x3fd")
    assert console.is_raw()
    end(console)
    assert console.machine.wait()[0] == status
    assert console.settings() == console.before


def test_a_start_that_fails_late_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    keyboard, terminal = os.openpty()
    before = termios.tcgetattr(terminal)
    command = [
        sys.executable,
        "-m",
        "vmm_core",
        "-accel",
        "test",
        "-mod-test",
        str(tmp_path / "nobody"),
        "-serial",
        "stdio",
    ]
    result = subprocess.run(command, stdin=terminal, stdout=terminal, stderr=subprocess.PIPE, timeout=30)
    assert result.returncode == 1
    assert b"nobody listens there" in result.stderr
    assert termios.tcgetattr(terminal) == before
    os.close(keyboard)
    os.close(terminal)
