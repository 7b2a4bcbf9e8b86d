"""`stratovirt-events`: what subscribers hear of VMs, and what a hostile VM can do to whoever follows it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from tests.deadlines import Deadline
from tests.processes import LIMIT, TestMachine
from tools.paths import ROOT
from vmm_core.errors import VmmError
from vmm_core.metrics import readings
from vmm_core.metrics.events import Watch, check_endpoint

EVENTS = [sys.executable, "-m", "vmm_core.metrics.events"]


@pytest.fixture
def run_directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="run") as directory:
        monkeypatch.setenv("STRATOCELL_RUN_DIR", directory)
        yield Path(directory)


@pytest.fixture
def machine(tmp_path: Path, run_directory: Path) -> Iterator[TestMachine]:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    device = ("-drive", f"file={image},id=d,direct=off", "-device", "virtio-blk-device,drive=d,id=disk0")
    machine = TestMachine(tmp_path, "-name", "web", *device)
    yield machine
    machine.close()


class Subscriber:
    """Of a bus: messages in order, by topic."""

    def __init__(self, endpoint: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"web ")
        self._socket.setsockopt(zmq.RCVTIMEO, int(LIMIT * 1000))
        self._socket.connect(endpoint)

    def wait(self, event: str) -> dict[str, Any]:
        """The next message of that kind."""
        deadline = Deadline(LIMIT)
        while deadline.left() > 0:
            topic, packed = self._socket.recv_multipart()
            if topic.decode() == f"web {event}":
                message: dict[str, Any] = msgpack.unpackb(packed)
                assert (message["vm"], message["event"]) == ("web", event)
                return message
        raise AssertionError(f"no {event}")

    def close(self) -> None:
        self._context.destroy(linger=0)


def test_a_subscriber_hears_of_a_death_and_of_the_return(machine: TestMachine, run_directory: Path) -> None:
    endpoint = f"ipc://{run_directory}/.bus"
    follower = subprocess.Popen([*EVENTS, "--publish", endpoint, "--statistics", "0.1"], cwd=ROOT)
    subscriber = Subscriber(endpoint)
    try:
        (backend,) = subscriber.wait("STATISTICS")["data"]["backends"]
        while not backend["pid"]:
            (backend,) = subscriber.wait("STATISTICS")["data"]["backends"]
        assert oct((run_directory / ".bus").stat().st_mode)[-3:] == "600"
        os.kill(backend["pid"], signal.SIGKILL)
        assert subscriber.wait("BACKEND_DIED")["data"]["id"] == "disk0"
        assert subscriber.wait("BACKEND_RESTARTED")["data"]["restarts"] == 1
        (place,) = [path for name, path in readings.monitors(str(run_directory)).items() if name == "web"]
        assert readings.read("web", place).backends[0].id == "disk0"  # who follows does not stand in the way
        machine.process.kill()
        subscriber.wait("VM_LOST")
        follower.send_signal(signal.SIGTERM)
        assert follower.wait(LIMIT) == 0
    finally:
        subscriber.close()
        follower.kill()
        follower.wait()


def test_without_a_bus_they_are_lines(machine: TestMachine, run_directory: Path) -> None:
    follower = subprocess.Popen([*EVENTS, "--vm", "web"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert follower.stdout is not None
    try:
        assert json.loads(follower.stdout.readline())["event"] == "VM_FOUND"
        machine.process.kill()
        lines = [json.loads(line)["event"] for line in follower.stdout.readline().splitlines()]
        assert lines == ["VM_LOST"]
    finally:
        follower.kill()
        follower.communicate()


@pytest.mark.parametrize(
    "endpoint", ["tcp://0.0.0.0:1", "tcp://*:1", "tcp://example.org:1", "ipc://x", "pgm://1", "", "tcp://127.0.0.1"]
)
def test_the_bus_is_for_this_machine_only(endpoint: str) -> None:
    with pytest.raises(VmmError, match="--publish"):
        check_endpoint(endpoint)


HOSTILE = {
    "no JSON": b"}{\r\n",
    "no object": b"[1]\r\n",
    "a deep one": b'{"return":' + b"[" * 100_000 + b"\r\n",
    "no end": b"x" * (readings.SIZE_LIMIT + (1 << 17)),
    "an end": b"",
}


@pytest.mark.parametrize("said", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_vm_is_given_up_and_others_are_not(said: bytes, tmp_path: Path) -> None:
    listeners = {}
    for name in ("good", "bad"):
        listeners[name] = socket.socket(socket.AF_UNIX)
        listeners[name].bind(str(tmp_path / name))
        listeners[name].listen()
    heard: list[tuple[str, str]] = []
    watch = Watch(
        lambda: {name: str(tmp_path / name) for name in listeners}, lambda m: heard.append((m["vm"], m["event"]))
    )
    watch.look_around()
    good, bad = listeners["good"].accept()[0], listeners["bad"].accept()[0]

    def talk() -> None:
        try:
            bad.sendall(said)
        except OSError:
            pass  # it was given up before it had finished
        bad.close()

    talker = threading.Thread(target=talk)
    talker.start()
    deadline = Deadline(LIMIT)
    while ("bad", "VM_LOST") not in heard and deadline.left() > 0:
        watch.listen(0.1)
    good.sendall(b'{"event": 7}\r\n{"event": "STOP", "data": {}}\r\n')
    while ("good", "STOP") not in heard and deadline.left() > 0:
        watch.listen(0.1)
    assert sorted(heard) == [("bad", "VM_FOUND"), ("bad", "VM_LOST"), ("good", "STOP"), ("good", "VM_FOUND")]
    talker.join()
    watch.close()
    for sock in (good, *listeners.values()):
        sock.close()
