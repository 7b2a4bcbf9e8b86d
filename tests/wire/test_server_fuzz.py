"""Messages that hypothesis makes up, in any order: the backend answers or hangs up, and leaks no descriptor."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from backends.runtime.server import Server
from ipc import vhost_user as wire
from ipc.connection import HEADER, NEED_REPLY, VERSION
from ipc.fds import pair
from ipc.vhost_user_layout import RepeatedLayout, TailLayout
from tests.wire.conftest import open_fds
from tests.wire.memory_device import MemoryDevice
from tests.wire.raw_frontend import HIGH, LOW, NEXT, RAM_SIZE, USER
from tests.wire.test_table import values_of

REQUESTS = list(wire.FRONTEND_REQUESTS.values())
LIKELY = st.sampled_from(  # numbers that mean something somewhere, so that some messages get through
    [0, 1, 3, 4, 64, 256, 4096, 0x100, USER, USER + 0x1000, USER + 0x2000, NEXT[2], HIGH[2], 1 << 32, 1 << 20]
)


def likely_values(message: wire.Message) -> st.SearchStrategy[tuple[Any, ...]]:
    """Plausible values where the fields are plain numbers."""
    kinds = [kind for kind, _ in message.payload.fields if not kind.startswith("pad")]
    if not kinds or any(kind not in ("u32", "u64") for kind in kinds) or isinstance(message.payload, RepeatedLayout):
        return values_of(message.payload)
    if isinstance(message.payload, TailLayout):
        return values_of(message.payload)
    return st.tuples(*(LIKELY.map((0xFFFFFFFF).__and__) if kind == "u32" else LIKELY for kind in kinds))


@st.composite
def messages(draw: st.DrawFn) -> tuple[bytes, int]:
    """The bytes of a message and how many descriptors go with it."""
    message = draw(st.sampled_from(REQUESTS))
    values = draw(st.one_of(likely_values(message), values_of(message.payload)))
    if message is wire.SET_MEM_TABLE and draw(st.booleans()):
        values = ([LOW, NEXT, HIGH][: draw(st.integers(0, 3))],)
    payload = message.payload.pack(*values)
    if draw(st.integers(0, 9)) == 0:
        payload = draw(st.binary(max_size=80))
    flags = draw(st.sampled_from([VERSION, VERSION | NEED_REPLY, VERSION | NEED_REPLY, 0xFFFFFFF9]))
    low, high = message.fds
    fds = len(values[0]) if message is wire.SET_MEM_TABLE else draw(st.sampled_from([low, high, high, high + 1]))
    return HEADER.pack(message.id, flags, len(payload)) + payload, fds


def greeting() -> bytes:
    protocol = wire.bits(0, 1, 3, 5, 9, 12, 13, 15, 16)
    return b"".join(
        HEADER.pack(message.id, VERSION, 8) + message.payload.pack(value)
        for message, value in ((wire.SET_PROTOCOL_FEATURES, protocol), (wire.SET_FEATURES, 1 << 32 | 1 << 30))
    )


def converse(device: MemoryDevice, conversation: list[tuple[bytes, int]], ram: int) -> None:
    """Say it all to a server of `device`, reading and dropping what it answers, until both sides are done."""
    server = Server(device, lambda line: None)
    ours, theirs = pair()
    front = socket.socket(fileno=ours)
    thread = threading.Thread(target=server.serve_connection, args=(theirs,))
    thread.start()
    try:
        for data, fds in [(greeting(), 0), *conversation]:
            socket.send_fds(front, [data], [ram] * fds)
        front.shutdown(socket.SHUT_WR)
    except (BrokenPipeError, ConnectionResetError):
        pass
    try:
        while front.recv(4096):
            pass
    except ConnectionResetError:
        pass
    thread.join(20)
    assert not thread.is_alive()
    front.close()
    server.close()


@settings(max_examples=150, deadline=None)
@given(st.lists(messages(), max_size=25))
def test_no_conversation_breaks_the_backend(conversation: list[tuple[bytes, int]]) -> None:
    ram = os.memfd_create("guest-ram")
    os.ftruncate(ram, RAM_SIZE)
    before = open_fds()
    device = MemoryDevice()
    converse(device, conversation, ram)
    assert device.sessions == 1
    assert open_fds() == before
    os.close(ram)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 40))
def test_no_bytes_break_the_backend(data: bytes, fds: int) -> None:
    ram = os.memfd_create("guest-ram")
    before = open_fds()
    converse(MemoryDevice(), [(data or b"\0", fds)], ram)
    assert open_fds() == before
    os.close(ram)
