"""The control bus: a hostile peer on either side is heard within bounds, and costs nobody else anything."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.runtime.control import ControlEnd
from backends.runtime.device import DeviceError
from backends.runtime.server import Server
from ipc import control
from ipc import vhost_user as vhost
from ipc.errors import PeerClosed, WireError
from tests.wire.memory_device import MemoryDevice
from tests.wire.raw_frontend import RawFrontend
from vmm_core.loop import EventLoop
from vmm_core.supervisor import control as core
from vmm_core.supervisor.control import ControlChannel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ipc.control import Message, Value

values = st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text(max_size=40)
messages = st.dictionaries(st.text(max_size=20), values, max_size=control.MAX_KEYS)
nested = st.recursive(
    st.none() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.binary() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(0, 99), inner),
)

MALFORMED = {
    "nothing that msgpack knows": b"\xc1",
    "a map that ends early": b"\x82\xa1a\x01",
    "a map of four thousand million": b"\xdf\xff\xff\xff\xff",
    "a text of four thousand million": b"\x81\xa1a\xdb\xff\xff\xff\xff",
    "more keys than allowed": msgpack.packb({f"k{number}": 0 for number in range(control.MAX_KEYS + 1)}),
    "a text longer than allowed": msgpack.packb({"a": "x" * (control.MAX_TEXT + 1)}),
    "a list": msgpack.packb([]),
    "a number": msgpack.packb(7),
    "a list in a map": msgpack.packb({"a": []}),
    "a map in a map": msgpack.packb({"a": {}}),
    "a deep map": msgpack.packb({"a": {"a": {"a": {"a": {}}}}}),
    "a fraction": msgpack.packb({"a": 1.5}),
    "bytes": msgpack.packb({"a": b"b"}),
    "a time": b"\x81\xa1a" + msgpack.packb(msgpack.Timestamp(1)),
    "a key that is a number": msgpack.packb({1: 2}),
    "a key that is a map": b"\x81\x80\x01",
    "a key twice": b"\x82\xa1a\x01\xa1a\x02",
    "text that is none": b"\x81\xa1a\xa1\xff",
    "two messages": msgpack.packb({}) * 2,
    "too much": bytes(control.MAX_PACKET + 1),
}


@given(messages)
def test_what_is_sent_is_what_arrives(message: dict[str, Any]) -> None:
    assert control.decode(control.encode(message)) == message


@pytest.mark.parametrize("packet", MALFORMED.values(), ids=MALFORMED)
def test_malformed_packets_are_refused(packet: bytes) -> None:
    with pytest.raises(WireError):
        control.decode(packet)


@given(st.binary(max_size=300) | nested.map(msgpack.packb))
def test_any_bytes_are_a_flat_map_or_refused(packet: bytes) -> None:
    try:
        message = control.decode(packet)
    except WireError:
        return
    assert len(message) <= control.MAX_KEYS
    assert all(isinstance(key, str) for key in message)
    assert all(value is None or isinstance(value, (str, int)) for value in message.values())


class Wire:
    """The core's end of a channel, and a peer who speaks as he likes."""

    def __init__(self) -> None:
        self.loop = EventLoop()
        self.channel = ControlChannel("disk", self.loop)
        self.broken: list[str] = []
        self.answers: list[tuple[Message, str]] = []
        self.channel.on_broken = self.broken.append
        self.peer = socket.socket(fileno=self.channel.take_end())
        self.peer.settimeout(5)

    def ask(self, command: str = "throttle", **arguments: Value) -> None:
        self.channel.ask(command, arguments, lambda answer, reason: self.answers.append((answer, reason)))

    def question(self) -> Message:
        """The next command that the peer hears."""
        found: Message = msgpack.unpackb(self.peer.recv(control.MAX_PACKET))
        return found

    def say(self, **message: Any) -> None:
        self.peer.send(msgpack.packb(message))

    def run(self, rounds: int = 1) -> None:
        for _ in range(rounds):
            self.loop.run_once(0.05)

    def close(self) -> None:
        self.channel.close()
        self.peer.close()
        self.loop.close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    yield made
    made.close()


def test_a_command_is_answered(wire: Wire) -> None:
    wire.ask(iops=5)
    assert wire.question() == {"id": 1, "command": "throttle", "iops": 5}
    wire.say(id=1, iops=5)
    wire.run()
    assert wire.answers == [({"iops": 5}, "")]
    assert wire.broken == []


def test_answers_may_come_in_any_order_and_one_of_them_be_an_error(wire: Wire) -> None:
    wire.ask()
    wire.ask()
    wire.say(id=2, error="no")
    wire.say(id=1)
    wire.run(2)
    assert wire.answers == [({}, "no"), ({}, "")]


@pytest.mark.parametrize("packet", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_answer_ends_the_channel_and_the_wait(wire: Wire, packet: bytes) -> None:
    wire.ask()
    wire.peer.send(packet)
    wire.run()
    assert len(wire.broken) == 1
    assert wire.broken[0].startswith("broke the rules of the control bus")
    assert wire.answers == [({}, core.GONE)]


UNASKED: tuple[dict[str, Any], ...] = (
    *({"id": identity} for identity in (7, 0, -1, True, "1", None)),
    {},
    {"id": 1, "error": 3},
)


@pytest.mark.parametrize("message", UNASKED, ids=str)
def test_what_nobody_asked_for_ends_the_channel(wire: Wire, message: dict[str, Any]) -> None:
    wire.ask("nothing")
    wire.say(**message)
    wire.run()
    assert len(wire.broken) == 1


def test_a_question_is_answered_once_only(wire: Wire) -> None:
    wire.ask()
    wire.say(id=1)
    wire.say(id=1)
    wire.run(2)
    assert (len(wire.answers), len(wire.broken)) == (1, 1)


def test_a_flood_is_over_with_its_first_message(wire: Wire) -> None:
    wire.peer.setblocking(False)
    try:
        while True:
            wire.say(id=99)
    except BlockingIOError:
        pass  # as many as the kernel holds
    wire.run(3)
    assert len(wire.broken) == 1
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        wire.say(id=99)


def test_silence_ends_the_wait_and_a_late_answer_is_no_offence(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "ANSWER_LIMIT", 0.05)
    wire.ask()
    wire.run(3)
    assert [reason for _answer, reason in wire.answers] == ["the backend did not answer within 0.05 s"]
    wire.say(id=1)
    wire.run()
    assert wire.broken == []
    wire.ask()
    wire.say(id=2, iops=1)
    wire.run()
    assert wire.answers[1:] == [({"iops": 1}, "")]


def test_a_peer_that_never_reads_costs_a_bounded_number_of_messages(wire: Wire) -> None:
    started = monotonic()
    for _ in range(1000):
        wire.ask(text="x" * 1000)
    assert monotonic() - started < 1.0
    assert len(wire.answers) >= 1000 - core.MAX_WAITING
    assert wire.broken == []


def test_descriptors_do_not_arrive(wire: Wire) -> None:
    before = len(os.listdir("/proc/self/fd"))
    socket.send_fds(wire.peer, [msgpack.packb({"id": 1})], [0, 1])
    wire.run()
    assert wire.broken == ["broke the rules of the control bus: descriptors, where none are allowed"]
    assert len(os.listdir("/proc/self/fd")) == before - 1  # its own socket


def test_the_end_of_a_backend_ends_the_wait(wire: Wire) -> None:
    wire.ask()
    wire.peer.close()
    wire.run()
    assert wire.answers == [({}, core.GONE)]
    assert wire.broken == [core.CLOSED]
    wire.ask()
    assert wire.answers[1:] == [({}, core.GONE)]


class Obedient(MemoryDevice):
    """Says what it was told."""

    def command(self, name: str, arguments: Mapping[str, Value]) -> Message:
        if name == "refuse":
            raise DeviceError("no, " + "x" * 5000)
        if name == "fail":
            raise OSError(28, "No space left on device")
        if name == "echo":
            return dict(arguments)
        return super().command(name, arguments)


@pytest.fixture
def told() -> Iterator[tuple[socket.socket, RawFrontend]]:
    """The core's end of a served device's control channel, and a front-end of it."""
    ours, theirs = control.channel()
    front, back = socket.socketpair()
    device = Obedient()
    server = Server(device, control=(end := ControlEnd(theirs.detach(), device)))
    thread = threading.Thread(target=server.serve_connection, args=(back.detach(),))
    thread.start()
    peer = socket.socket(fileno=ours.detach())
    peer.settimeout(5)
    frontend = RawFrontend(front)
    yield peer, frontend
    peer.close()
    frontend.close()
    thread.join(5)
    end.close()
    device.close()
    server.close()


def ask(peer: socket.socket, **message: Any) -> Any:
    peer.send(msgpack.packb(message))
    return msgpack.unpackb(peer.recv(control.MAX_PACKET))


def test_a_device_does_what_it_is_told_or_says_why_not(told: tuple[socket.socket, RawFrontend]) -> None:
    peer, _front = told
    assert ask(peer, id=1, command="echo", a=1, b="c") == {"id": 1, "a": 1, "b": "c"}
    assert ask(peer, id=2, command="dance") == {"id": 2, "error": "there is no command 'dance'"}
    assert len(ask(peer, id=3, command="refuse")["error"]) <= 200
    assert ask(peer, id=4, command="fail")["error"] == "No space left on device"


@pytest.mark.parametrize(
    "packet",
    [*MALFORMED.values(), msgpack.packb({}), msgpack.packb({"id": "1", "command": "echo"})],
    ids=[*MALFORMED, "no id", "a text for an id"],
)
def test_a_core_that_talks_nonsense_is_heard_no_more_and_the_device_works_on(
    told: tuple[socket.socket, RawFrontend], packet: bytes
) -> None:
    peer, front = told
    peer.send(packet)
    assert peer.recv(control.MAX_PACKET) == b""
    assert front.call(vhost.GET_FEATURES)


def test_the_end_of_the_channel_is_told_from_an_empty_message() -> None:
    ours, theirs = control.channel()
    assert control.receive(ours) is None
    theirs.close()
    with pytest.raises(PeerClosed):
        control.receive(ours)
    with pytest.raises(PeerClosed):
        control.send(ours, {"id": 1})
    ours.close()
