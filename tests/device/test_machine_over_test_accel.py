"""A whole VM under its monitor: each QMP command and event, against the real process on the `test` accelerator."""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp import ExecuteError, QMPClient

from tests.processes import RawQmp, TestMachine
from vmm_core.qmp.version import VERSION

TOPOLOGY = ("-smp", "4,maxcpus=8,sockets=2,dies=1,cores=2,threads=2")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[TestMachine]:
    machine = TestMachine(tmp_path, "-serial", "pty", "-object", "iothread,id=io1", *TOPOLOGY)
    yield machine
    machine.close()


@pytest.fixture
def qmp(machine: TestMachine) -> Iterator[RawQmp]:
    client = machine.qmp()
    yield client
    client.close()


def refusal(answer: dict[str, Any]) -> str:
    assert answer["error"]["class"] == "GenericError", answer
    return str(answer["error"]["desc"])


def test_the_greeting_is_stratovirts(machine: TestMachine) -> None:
    machine.qmp().close()
    client = RawQmp(str(machine.qmp_path))
    assert client.message() == {"QMP": {"version": VERSION, "capabilities": []}}
    assert VERSION["qemu"] == {"micro": 1, "minor": 0, "major": 5}
    client.close()


def test_every_query_answers_what_management_programs_read(machine: TestMachine, qmp: RawQmp) -> None:
    assert qmp.value("qmp_capabilities") == {}
    assert qmp.value("query-status") == {"running": True, "singlestep": False, "status": "running"}
    assert qmp.value("query-version") == VERSION
    assert qmp.value("query-target") == {"arch": "x86_64"}
    assert qmp.value("query-kvm") == {"enabled": False, "present": os.path.exists("/dev/kvm")}
    assert qmp.value("x-query-accel") == {"name": "test", "reason": "requested"}
    assert [entry["name"] for entry in qmp.value("query-machines")] == ["microvm"]
    assert {entry["name"] for entry in qmp.value("query-events")} >= {
        "SHUTDOWN",
        "STOP",
        "RESUME",
        "RESET",
        "POWERDOWN",
    }
    (serial,) = qmp.value("query-chardev")
    assert serial["label"] == "serial_chardev"
    assert serial["filename"].startswith("pty:/dev/pts/")
    (iothread,) = qmp.value("query-iothreads")
    assert (iothread["id"], iothread["thread-id"]) == ("io1", machine.process.pid)


def test_cpus_are_shown_with_their_threads_and_places(machine: TestMachine, qmp: RawQmp) -> None:
    cpus = qmp.value("query-cpus")
    assert [cpu["CPU"] for cpu in cpus] == [0, 1, 2, 3]
    assert {str(cpu["thread_id"]) for cpu in cpus} <= set(os.listdir(f"/proc/{machine.process.pid}/task"))
    assert cpus[3]["props"] == {"socket-id": 0, "die_id": 0, "core-id": 1, "thread-id": 1}
    possible = qmp.value("query-hotpluggable-cpus")
    assert [("qom-path" in cpu) for cpu in possible] == [True] * 4 + [False] * 4
    assert possible[7]["props"] == {"socket-id": 1, "die_id": 0, "core-id": 1, "thread-id": 1}


def test_the_command_list_and_the_schema_agree(qmp: RawQmp) -> None:
    names = {entry["name"] for entry in qmp.value("query-commands")}
    schema = qmp.value("query-qmp-schema")
    kinds = {entry["name"]: entry for entry in schema}
    assert {entry["name"] for entry in schema if entry["meta-type"] == "command"} == names
    assert kinds["getfd-arguments"]["members"] == [{"name": "fdname", "type": "str"}]
    for entry in schema:
        for member in entry.get("members", []):
            assert member["type"] in kinds


def test_no_listed_command_is_missing(qmp: RawQmp) -> None:
    ending = {"quit", "system_reset", "system_powerdown", "stop", "cont", "getfd"}
    for entry in qmp.value("query-commands"):
        if entry["name"] not in ending:
            assert "return" in qmp.ask(entry["name"]), entry


def test_pausing_tells_everybody_and_is_refused_twice(qmp: RawQmp) -> None:
    assert "running already" in refusal(qmp.ask("cont"))
    assert qmp.ask("stop")["event"] == "STOP"
    assert qmp.message() == {"return": {}}
    assert qmp.value("query-status") == {"running": False, "singlestep": False, "status": "paused"}
    assert "paused already" in refusal(qmp.ask("stop"))  # and no event before it
    assert qmp.ask("cont")["event"] == "RESUME"
    assert qmp.message() == {"return": {}}
    assert qmp.value("query-status")["running"] is True


def test_a_vm_started_frozen_waits_for_cont(tmp_path: Path) -> None:
    machine = TestMachine(tmp_path, "-S", "-serial", "pty")
    qmp = machine.qmp()
    assert qmp.value("query-status")["status"] == "paused"
    assert qmp.ask("cont")["event"] == "RESUME"
    machine.close()


def test_quit_answers_then_says_shutdown_and_exits_with_0(machine: TestMachine, qmp: RawQmp) -> None:
    assert qmp.ask("quit") == {"return": {}}
    event = qmp.message()
    assert (event["event"], event["data"]) == ("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})
    assert {"seconds", "microseconds"} == set(event["timestamp"])
    assert qmp.ends()
    assert machine.wait()[0] == 0
    assert not machine.qmp_path.exists()


@pytest.mark.parametrize(
    ("command", "event", "reason"),
    [
        ("system_reset", "RESET", "host-qmp-system-reset"),
        ("system_powerdown", "POWERDOWN", "host-qmp-system-powerdown"),
    ],
)
def test_reset_and_power_button_end_a_microvm_with_their_events(
    machine: TestMachine, qmp: RawQmp, command: str, event: str, reason: str
) -> None:
    assert qmp.ask(command)["event"] == event
    shutdown = qmp.message()
    assert (shutdown["event"], shutdown["data"]["reason"]) == ("SHUTDOWN", reason)
    assert qmp.message() == {"return": {}}
    assert machine.wait()[0] == 0


def test_commands_sent_together_are_answered_in_order_with_their_ids(qmp: RawQmp) -> None:
    ids: list[Any] = [1, "two", {"three": [3]}, [4], None, True, 5.5, 2**70, "\u00e9\u2028"]
    qmp.send("".join(json.dumps({"execute": "query-status", "id": value}) for value in ids).encode())
    assert [qmp.message()["id"] for _ in ids] == ids
    assert "id" not in qmp.ask("query-status")


def test_an_error_carries_the_id_of_its_command(qmp: RawQmp) -> None:
    qmp.send(
        b'{"execute":"no-such","id":1}{"execute":"stop","surprise":0,"id":2}{"execute":"stop","arguments":[],"id":3}'
    )
    answers = [qmp.message() for _ in range(3)]
    assert [answer["id"] for answer in answers] == [1, 2, 3]
    assert "no-such" in refusal(answers[0])
    assert "surprise" in refusal(answers[1])
    assert "stop" in refusal(answers[2])


def test_a_command_that_comes_byte_by_byte_is_heard(qmp: RawQmp) -> None:
    for byte in b'{"execute":"query-status"}':
        qmp.send(bytes([byte]))
    assert qmp.message()["return"]["running"] is True


@pytest.mark.parametrize(
    "wrong",
    [
        b'"just text"\n',
        b"[1,2]\n",
        b'{"execute":5}',
        b'{"arguments":{}}',
        b'{"execute":"stop","arguments":null}',
        b'{"execute":"stop","arguments":{"force":true}}',
        b'{"execute":"getfd","arguments":{"fdname":7}}',
        b'{"execute":"getfd","arguments":{"fdname":""}}',
        b'{"execute":"query-status","id":1e999}',
        b'{"execute":"query-status","id":' + b"9" * 5000 + b"}",
        b'{"execute":"\xff\xfe"}',
        b'{"execute":"\\ud800"}',
        b'{"execute":"query-status"]\n',
        b'{"execute":"unfinished\n',
        b"}\n",
        b"\x00\n",
        b"GET / HTTP/1.1\n",
    ],
)
def test_a_wrong_command_is_refused_and_the_next_one_works(qmp: RawQmp, wrong: bytes) -> None:
    qmp.send(wrong)
    refusal(qmp.message())
    assert qmp.value("query-status")["running"] is True


def pass_descriptors(qmp: RawQmp, data: bytes, fds: list[int]) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())]
    qmp.socket.sendmsg([data], rights)


def test_a_descriptor_is_kept_under_its_name_and_surplus_ones_are_closed(machine: TestMachine, qmp: RawQmp) -> None:
    assert "SCM_RIGHTS" in refusal(qmp.ask("getfd", fdname="tap"))
    before = machine.descriptors()
    with open(os.devnull) as null:
        for _ in range(50):
            pass_descriptors(qmp, b'{"execute":"getfd","arguments":{"fdname":"tap"}}', [null.fileno()] * 3)
            assert qmp.message() == {"return": {}}
            pass_descriptors(qmp, b'{"execute":"query-status"}', [null.fileno()] * 16)
            assert "return" in qmp.message()
        assert machine.descriptors() == before + 1
        assert "SCM_RIGHTS" in refusal(qmp.ask("getfd", fdname="late"))


def test_kept_descriptors_are_bounded(machine: TestMachine, qmp: RawQmp) -> None:
    with open(os.devnull) as null:
        for number in range(64):
            pass_descriptors(
                qmp, json.dumps({"execute": "getfd", "arguments": {"fdname": f"n{number}"}}).encode(), [null.fileno()]
            )
            assert qmp.message() == {"return": {}}
        pass_descriptors(qmp, b'{"execute":"getfd","arguments":{"fdname":"one more"}}', [null.fileno()])
        assert "64" in refusal(qmp.message())


def test_a_descriptor_may_come_with_the_first_bytes_of_its_command(qmp: RawQmp) -> None:
    with open(os.devnull) as null:
        pass_descriptors(qmp, b'{"execute":"getfd",', [null.fileno()])
    qmp.send(b'"arguments":{"fdname":"early"}}')
    assert qmp.message() == {"return": {}}


def test_the_standard_client_library_works(machine: TestMachine) -> None:
    async def talk() -> None:
        client = QMPClient("test")
        machine.qmp().close()
        await client.connect(str(machine.qmp_path))
        status = await client.execute("query-status")
        assert isinstance(status, dict)
        assert status["running"] is True
        await client.execute("stop")
        with pytest.raises(ExecuteError, match="paused already"):
            await client.execute("stop")
        await client.execute("quit")
        names: list[str] = []
        while not names or names[-1] != "SHUTDOWN":
            names.append(str((await client.events.get())["event"]))
        assert names == ["STOP", "SHUTDOWN"]
        with contextlib.suppress(EOFError):  # the VM hangs up first
            await client.disconnect()

    asyncio.run(talk())
    assert machine.wait()[0] == 0
