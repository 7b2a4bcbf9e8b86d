"""Sessions: each front-end finds a fresh device, and nothing of the last one; the backend can tell of changes."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from backends.runtime.device import Device
from backends.runtime.server import Server
from ipc import vhost_user as wire
from ipc.connection import HEADER, VERSION, Connection
from ipc.fds import pair
from tests.wire.conftest import open_fds
from tests.wire.memory_device import MemoryDevice
from tests.wire.raw_frontend import HIGH, LOW

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.wire.raw_frontend import RawFrontend


def test_a_reconnecting_front_end_finds_nothing_of_the_last_session(
    connect_frontend: Callable[[], RawFrontend], device: MemoryDevice, ram: int
) -> None:
    for number in range(1, 20):
        before = open_fds()
        one = connect_frontend()
        one.greet()
        assert not device.regions
        assert not device.started
        one.map_ram(ram, LOW, HIGH)
        one.start_ring(0)
        one.start_ring(3)
        one.call(wire.SET_LOG_BASE, 4096, 0, fds=[ram])
        one.send(wire.SET_INFLIGHT_FD, 1 << 20, 0, 1, 64, fds=[ram])
        one.close()
        two = connect_frontend()  # is served only when the first one's session is over
        two.greet()
        assert not two.closed()
        assert device.sessions >= number
        two.close()
        assert open_fds() <= before + 8  # the current connection and what belongs to it


def test_ten_broken_sessions_in_a_row_leave_a_working_backend(
    connect_frontend: Callable[[], RawFrontend], ram: int
) -> None:
    for size in range(10):
        broken = connect_frontend()
        broken.raw(b"\xff" * size + HEADER.pack(0xFFFF, 3, 0xFFFFFFFF), [ram] * size)
        assert broken.closed()
        broken.close()


class FaultyDevice(MemoryDevice):
    def vring_enable(self, index: int, enabled: bool) -> None:
        raise RuntimeError("a defect")


class Forgetful(MemoryDevice):
    """Has room for an inflight region in its books, but refuses each."""

    set_inflight = Device.set_inflight


@pytest.mark.parametrize("message", [wire.GET_INFLIGHT_FD, wire.SET_INFLIGHT_FD], ids=str)
def test_an_inflight_region_that_the_device_refuses_is_not_leaked(ram: int, message: wire.Message) -> None:
    device, log = Forgetful(), list[str]()
    server = Server(device, log.append)
    ours, theirs = pair()
    front = Connection(ours)
    front.send(wire.SET_PROTOCOL_FEATURES.id, 0, wire.SET_PROTOCOL_FEATURES.payload.pack(device.protocol_features))
    front.send(message.id, 0, message.payload.pack(1 << 20, 0, 1, 64), [ram] * message.fds[1])
    server.serve_connection(theirs)
    assert log[-1] == "session ended: memory device keeps no inflight region"
    front.close()
    server.close()


def test_a_defect_of_the_device_costs_the_session_not_the_process(ram: int) -> None:
    device, log = FaultyDevice(), list[str]()
    server = Server(device, log.append)
    ours, theirs = pair()
    front = Connection(ours)
    front.send(wire.SET_VRING_ENABLE.id, 0, wire.SET_VRING_ENABLE.payload.pack(0, 1))
    server.serve_connection(theirs)
    assert device.sessions == 1
    assert log == ["session ended by RuntimeError: a defect"]
    front.close()
    server.close()


class TestChangeOfConfiguration:
    @pytest.fixture
    def channel(self, frontend: RawFrontend, device: MemoryDevice) -> Connection:
        ours, theirs = pair()
        assert frontend.acknowledged(wire.SET_BACKEND_REQ_FD, fds=[theirs])
        os.close(theirs)
        return Connection(ours)

    def test_the_front_end_is_told(self, channel: Connection, device: MemoryDevice) -> None:
        assert device.config_change_notifier is not None
        device.config_change_notifier()
        frame = channel.receive(5)
        assert (frame.request, frame.flags, frame.payload) == (wire.BACKEND_CONFIG_CHANGE.id, VERSION, b"")
        channel.close()

    def test_a_front_end_that_never_listens_does_not_block_the_device(
        self, channel: Connection, device: MemoryDevice
    ) -> None:
        assert device.config_change_notifier is not None
        for _ in range(20_000):
            device.config_change_notifier()
        channel.close()
        device.config_change_notifier()

    def test_a_second_channel_replaces_the_first(
        self, frontend: RawFrontend, channel: Connection, device: MemoryDevice
    ) -> None:
        ours, theirs = socket.socketpair()
        assert frontend.acknowledged(wire.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
        theirs.close()
        assert device.config_change_notifier is not None
        device.config_change_notifier()
        assert len(ours.recv(100)) == HEADER.size
        ours.close()
        channel.close()

    def test_there_is_no_notifier_without_a_session(
        self, frontend: RawFrontend, channel: Connection, device: MemoryDevice, backend: str
    ) -> None:
        from tests.wire.raw_frontend import RawFrontend

        frontend.close()
        following = RawFrontend(backend)
        following.greet()
        assert not following.closed()
        assert device.config_change_notifier is None
        following.close()
        channel.close()

    def test_a_descriptor_that_is_no_socket_is_refused(
        self, frontend: RawFrontend, channel: Connection, ram: int
    ) -> None:
        assert not frontend.acknowledged(wire.SET_BACKEND_REQ_FD, fds=[ram])
        channel.close()
