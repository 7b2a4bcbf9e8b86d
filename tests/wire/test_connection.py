"""The socket layer: bounded in size, time and descriptors, whatever the peer sends and however slowly."""

from __future__ import annotations

import os
import socket
import struct
import threading
from time import monotonic
from typing import TYPE_CHECKING

import pytest

from ipc.connection import HEADER, MAX_PAYLOAD, VERSION, Connection
from ipc.errors import PeerClosed, WireError, WireTimeout
from ipc.fds import MAX_FDS, close_all, pair
from tests.wire.conftest import open_fds

if TYPE_CHECKING:
    from collections.abc import Iterator

SOON = 0.2  # seconds: the timeout of tests that want one


@pytest.fixture
def ends() -> Iterator[tuple[Connection, socket.socket]]:
    ours, theirs = pair()
    connection, peer = Connection(ours), socket.socket(fileno=theirs)
    yield connection, peer
    connection.close()
    peer.close()


def message(payload: bytes = b"", request: int = 1, flags: int = VERSION) -> bytes:
    return HEADER.pack(request, flags, len(payload)) + payload


def test_messages_keep_their_borders_and_their_descriptors(ends: tuple[Connection, socket.socket], ram: int) -> None:
    connection, peer = ends
    socket.send_fds(peer, [message(b"one")], [ram])
    peer.send(message(b"two") + message(b"three"))
    one = connection.receive(1)
    assert (one.payload, len(one.fds)) == (b"one", 1)
    one.close()
    for expected in (b"two", b"three"):
        frame = connection.receive(1)
        assert (frame.payload, frame.fds) == (expected, [])


def test_received_descriptors_are_not_inherited(ends: tuple[Connection, socket.socket], ram: int) -> None:
    connection, peer = ends
    socket.send_fds(peer, [message()], [ram])
    frame = connection.receive(1)
    assert not os.get_inheritable(frame.fds[0])
    frame.close()


def test_what_is_sent_arrives_even_when_the_socket_is_full(ends: tuple[Connection, socket.socket]) -> None:
    connection, peer = ends
    connection._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    payload, received = bytes(MAX_PAYLOAD), bytearray()

    def read() -> None:
        while len(received) < 10 * (HEADER.size + MAX_PAYLOAD):
            received.extend(peer.recv(1000))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(10):
        connection.send(1, 0, payload)
    reader.join()
    assert received == message(payload) * 10


def test_a_peer_that_never_reads_costs_bounded_time(ends: tuple[Connection, socket.socket]) -> None:
    connection, _ = ends
    start = monotonic()

    def send_much() -> None:
        for _ in range(10_000):
            connection.send(1, 0, bytes(MAX_PAYLOAD), timeout=SOON)

    with pytest.raises(WireTimeout):
        send_much()
    assert monotonic() - start < 10


def test_a_peer_that_dribbles_does_not_get_more_time(ends: tuple[Connection, socket.socket]) -> None:
    """Each byte would restart a timeout that counts silence; this one counts the message."""
    connection, peer = ends
    stop = threading.Event()

    def dribble() -> None:
        for byte in message(bytes(1000)):
            peer.send(bytes([byte]))
            if stop.wait(0.01):
                return

    writer = threading.Thread(target=dribble)
    writer.start()
    start = monotonic()
    with pytest.raises(WireTimeout):
        connection.receive(SOON)
    assert monotonic() - start < SOON + 2
    stop.set()
    writer.join()


@pytest.mark.parametrize("data", [b"", message()[:5], message(b"payload")[:15]])
def test_a_peer_that_goes_away_is_noticed_at_any_point(ends: tuple[Connection, socket.socket], data: bytes) -> None:
    connection, peer = ends
    peer.sendall(data)
    peer.close()
    with pytest.raises(PeerClosed):
        connection.receive(1)
    with pytest.raises(PeerClosed):
        connection.send(1, 0, b"")


@pytest.mark.parametrize("count", [MAX_FDS + 1, 100, 253])
def test_descriptors_that_do_not_fit_are_closed(ends: tuple[Connection, socket.socket], ram: int, count: int) -> None:
    connection, peer = ends
    before = open_fds()
    socket.send_fds(peer, [message()], [ram] * count)
    with pytest.raises(WireError, match="descriptors"):
        connection.receive(1)
    assert open_fds() == before


def test_descriptors_spread_over_one_message_are_counted_together(
    ends: tuple[Connection, socket.socket], ram: int
) -> None:
    connection, peer = ends
    before = open_fds()
    for byte in message():
        socket.send_fds(peer, [bytes([byte])], [ram] * 4)
    with pytest.raises(WireError, match="descriptors"):
        connection.receive(1)
    assert open_fds() == before


def test_other_ancillary_data_is_ignored(ends: tuple[Connection, socket.socket]) -> None:
    connection, peer = ends
    credentials = struct.pack("iii", os.getpid(), os.getuid(), os.getgid())
    peer.sendmsg([message()], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, credentials)])
    assert connection.receive(1).fds == []


def test_an_unfinished_message_keeps_no_descriptors_when_the_connection_is_closed(ram: int) -> None:
    ours, theirs = pair()
    connection, peer = Connection(ours), socket.socket(fileno=theirs)
    socket.send_fds(peer, [message(b"1234")[:14]], [ram, ram])
    assert connection.receive_now() is None
    connection.close()
    peer.close()


def test_shutdown_ends_a_wait_in_another_thread(ends: tuple[Connection, socket.socket]) -> None:
    connection, _ = ends
    ended: list[type] = []

    def wait() -> None:
        try:
            connection.receive(30)
        except WireError as error:
            ended.append(type(error))

    waiter = threading.Thread(target=wait)
    waiter.start()
    connection.shutdown()
    waiter.join(5)
    assert ended == [PeerClosed]


def test_closing_descriptors_survives_one_that_is_closed_already(ram: int) -> None:
    gone, kept = os.dup(ram), os.dup(ram)
    os.close(gone)
    close_all([-1, gone, kept])
    with pytest.raises(OSError):
        os.fstat(kept)
