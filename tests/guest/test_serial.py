"""The serial port behind each kind of chardev."""

from __future__ import annotations

import os
import re
import select
import socket
from pathlib import Path

import pytest

from tests.deadlines import Deadline
from tests.guest.console import Console
from tests.guest.harness import READY, Guest, Plan, start


def connect(path: Path) -> socket.socket:
    deadline = Deadline(20)
    while True:
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(str(path))
            return client
        except (FileNotFoundError, ConnectionRefusedError):
            client.close()
            assert deadline.left() > 0, f"no socket {path}"
            select.select([], [], [], 0.01)


def socket_console(client: socket.socket) -> Console:
    descriptor = client.detach()
    return Console(descriptor, descriptor)


def test_a_socket_client_gets_the_guests_shell(plan: Plan) -> None:
    path = plan.directory / "serial"
    plan.serial = f"socket,path={path},server,nowait"
    with start(plan) as guest:
        console = socket_console(connect(path))
        console.wait_for(READY)
        assert console.check("echo $((6 * 7))") == "42"
        console.send("poweroff -f\n")
        assert guest.wait_exit() == 0
        console.close()


def test_a_socket_client_may_leave_and_another_may_come(plan: Plan) -> None:
    path = plan.directory / "serial"
    plan.serial = f"socket,path={path},server,nowait"
    with start(plan) as guest:
        first = socket_console(connect(path))
        first.wait_for(READY)
        first.close()
        second = socket_console(connect(path))
        assert second.check("echo still here") == "still here"
        second.send("poweroff -f\n")
        assert guest.wait_exit() == 0
        second.close()


def test_a_pty_is_announced_and_usable(plan: Plan) -> None:
    plan.serial = "pty"
    with start(plan) as guest:
        (chardev,) = guest.qmp.execute("query-chardev")
        assert re.fullmatch(r"pty:/dev/pts/\d+", chardev["filename"])
        descriptor = os.open(chardev["filename"].removeprefix("pty:"), os.O_RDWR | os.O_NOCTTY)
        console = Console(descriptor, descriptor)
        console.wait_for("STRATOCELL|ready", 60)
        guest.qmp.execute("quit")
        assert guest.wait_exit() == 0
        console.close()


def test_a_file_collects_what_the_guest_says(plan: Plan) -> None:
    path = plan.directory / "serial.log"
    plan.serial, plan.append = f"file,path={path}", "stratocell.stop_at=init"
    with start(plan) as guest:
        assert guest.wait_exit(60) == 0
    assert "STRATOCELL init" in path.read_text()


@pytest.mark.rig
def test_much_output_and_input_pass_unharmed(guest: Guest) -> None:
    said = guest.console.check("i=0; while [ $i -lt 3000 ]; do echo line $i of much output; i=$((i + 1)); done")
    assert said.split("\n") == [f"line {index} of much output" for index in range(3000)]
    text = "0123456789abcdef" * 200
    assert guest.console.check(f"echo {text}") == text
    assert guest.power_off() == 0
