"""The real `stratovirt` on the `test` accelerator: no CPU runs, so it starts anywhere in a tenth of a second."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.deadlines import Deadline
from tools.paths import ROOT

LIMIT = 20.0  # seconds for anything that should take milliseconds
Message = dict[str, Any]


class RawQmp:
    """Bytes to and from a monitor, cut into lines; nothing is sent on its own."""

    def __init__(self, address: str | tuple[str, int]) -> None:
        self.socket = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        self.socket.settimeout(LIMIT)
        self.socket.connect(address)
        self._pending = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def message(self) -> Message:
        """The next answer or event; AssertionError when the monitor hangs up instead."""
        while b"\r\n" not in self._pending:
            data = self.socket.recv(65536)
            assert data, f"the monitor hung up after {self._pending!r}"
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\r\n")
        message: Message = json.loads(line)
        return message

    def ask(self, command: str, **arguments: object) -> Message:
        """Send a command and return what comes next."""
        request = {"execute": command, **({"arguments": arguments} if arguments else {})}
        self.send(json.dumps(request).encode())
        return self.message()

    def value(self, command: str, **arguments: object) -> Any:
        answer = self.ask(command, **arguments)
        assert "return" in answer, answer
        return answer["return"]

    def ends(self) -> bool:
        """Whether the monitor hangs up; what it still says is dropped."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionResetError:
            pass
        return True

    def close(self) -> None:
        self.socket.close()


def refusal(answer: Message) -> str:
    """Why a command was refused."""
    assert answer["error"]["class"] == "GenericError", answer
    return str(answer["error"]["desc"])


def connect(path: Path) -> RawQmp:
    """Connect and take the greeting; the socket may not be there yet."""
    deadline = Deadline(LIMIT)
    while True:
        try:
            client = RawQmp(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            assert deadline.left() > 0, f"nobody listens at {path}"
            select.select([], [], [], 0.005)
            continue
        assert "QMP" in client.message()
        return client


class TestMachine:
    """A running VM, the socket that drives its devices, and its monitor at `directory/qmp.sock`."""

    __test__ = False

    def __init__(self, directory: Path, *arguments: str, monitor: bool = True, **popen: Any) -> None:
        self.directory = directory
        self.qmp_path = directory / "qmp.sock"
        driver_path = directory / "driver.sock"
        listener = socket.socket(socket.AF_UNIX)
        listener.settimeout(LIMIT)
        listener.bind(str(driver_path))
        listener.listen(1)
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "vmm_core", "-accel", "test", "-mod-test", str(driver_path)),
                *(("-qmp", f"unix:{self.qmp_path},server,nowait") if monitor else ()),
                *arguments,
            ],
            stderr=subprocess.PIPE if "stderr" not in popen else popen.pop("stderr"),
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            **popen,
        )
        try:
            self.driver = self._accept(listener)
        finally:
            listener.close()
            driver_path.unlink()
        self.driver.settimeout(LIMIT)
        self._answers = b""

    def _accept(self, listener: socket.socket) -> socket.socket:
        """The VM's connection; AssertionError with what it said when it ends instead."""
        ended = os.pidfd_open(self.process.pid)
        ready, _, _ = select.select([listener.fileno(), ended], [], [], Deadline(LIMIT).left())
        os.close(ended)
        if listener.fileno() in ready:
            return listener.accept()[0]
        self.process.kill()
        _, said = self.process.communicate()
        raise AssertionError(f"the VM did not come up: {said!r}")

    def qmp(self) -> RawQmp:
        """A client that hears of events."""
        client = connect(self.qmp_path)
        assert client.value("qmp_capabilities") == {}
        return client

    def drive(self, request: str) -> str:
        """One request of the `-mod-test` protocol; returns its answer's value."""
        self.driver.sendall(request.encode() + b"\n")
        return self._answer()

    def _answer(self) -> str:
        while b"\n" not in self._answers:
            data = self.driver.recv(65536)
            assert data, "the VM closed the driving socket"
            self._answers += data
        line, _, self._answers = self._answers.partition(b"\n")
        verdict, _, value = line.decode().partition(" ")
        assert verdict == "OK", line
        return value

    def print(self, text: bytes) -> None:
        """Let the guest send `text` through its serial port, without looking whether there is room."""
        for start in range(0, len(text), 1000):
            part = text[start : start + 1000]
            self.driver.sendall(b"".join(b"outb 0x3f8 %d\n" % byte for byte in part))
            for _ in part:
                self._answer()

    def read_serial(self, count: int) -> bytes:
        """Let the guest read `count` bytes from its serial port, as they come."""
        deadline, text = Deadline(LIMIT), b""
        while len(text) < count:
            if int(self.drive("inb 0x3fd"), 0) & 1:
                text += bytes([int(self.drive("inb 0x3f8"), 0)])
            assert deadline.left() > 0, f"only {text!r} came"
        return text

    def wait(self) -> tuple[int, str]:
        """Exit status and everything said on standard error."""
        _, said = self.process.communicate(timeout=Deadline(LIMIT).seconds)
        return self.process.returncode, (said or b"").decode()

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def close(self) -> None:
        self.driver.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
