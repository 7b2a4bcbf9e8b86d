"""What a client may write to the monitor: commands in a row or in pieces, any id, nonsense, descriptors."""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes import RawQmp, TestMachine, refusal


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[TestMachine]:
    machine = TestMachine(tmp_path, "-serial", "pty")
    yield machine
    machine.close()


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
