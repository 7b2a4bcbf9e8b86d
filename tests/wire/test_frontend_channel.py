"""The backend's own requests: answered without ever holding the main loop, nonsense costs the device."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from ipc import vhost_user as wire
from ipc.connection import HEADER, NEED_REPLY, VERSION
from tests.wire.fake_backend import FakeBackend
from tests.wire.frontend_rig import Rig
from vmm_core.virtio.device import DeviceBroken

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipc.connection import Frame


class TestChannel:
    @pytest.fixture
    def ready(self, rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]) -> tuple[Rig, FakeBackend]:
        rig = rigs()
        fake = rig.attach(fakes())
        rig.device.prepare()
        return rig, fake

    def test_every_request_is_answered_that_asks_for_it(self, ready: tuple[Rig, FakeBackend], ram: int) -> None:
        rig, fake = ready
        channel = socket.socket(fileno=os.dup(fake.channel))
        for message in wire.BACKEND_REQUESTS.values():
            payload = bytes(message.payload.size)
            data = HEADER.pack(message.id, VERSION | NEED_REPLY, len(payload)) + payload
            socket.send_fds(channel, [data], [ram] * message.fds[1])
            rig.device.on_channel_readable()
            request, flags, size = HEADER.unpack(channel.recv(HEADER.size))
            result = int.from_bytes(channel.recv(size), "little")
            assert (request, flags) == (message.id, 5)
            assert (result == 0) == (message is wire.BACKEND_CONFIG_CHANGE)
        channel.close()
        assert rig.changes == 1
        assert rig.broken == []

    def test_a_flood_of_changes_is_told_as_one(self, ready: tuple[Rig, FakeBackend]) -> None:
        rig, fake = ready
        os.write(fake.channel, HEADER.pack(wire.BACKEND_CONFIG_CHANGE.id, VERSION, 0) * 60)
        rig.device.on_channel_readable()
        assert rig.changes == 1

    def test_a_flood_that_goes_on_loses_the_device(self, ready: tuple[Rig, FakeBackend]) -> None:
        rig, fake = ready
        while not rig.broken:
            os.write(fake.channel, HEADER.pack(wire.BACKEND_CONFIG_CHANGE.id, VERSION, 0) * 60)
            rig.device.on_channel_readable()
        assert rig.broken == ["the backend sent more than 1000 requests within a second"]
        assert rig.changes < 20

    def test_bytes_that_dribble_in_do_not_hold_the_main_loop(self, ready: tuple[Rig, FakeBackend]) -> None:
        rig, fake = ready
        for byte in HEADER.pack(wire.BACKEND_CONFIG_CHANGE.id, VERSION, 0):
            assert rig.changes == 0
            os.write(fake.channel, bytes([byte]))
            rig.device.on_channel_readable()
        assert rig.changes == 1

    def test_a_backend_that_never_reads_its_answers_loses_the_device(self, ready: tuple[Rig, FakeBackend]) -> None:
        rig, fake = ready
        while not rig.broken:
            os.write(fake.channel, HEADER.pack(wire.BACKEND_CONFIG_CHANGE.id, VERSION | NEED_REPLY, 0))
            rig.device.on_channel_readable()

    @pytest.mark.parametrize(
        "data",
        [
            HEADER.pack(2, 2, 0),
            HEADER.pack(2, VERSION | 4, 0),
            HEADER.pack(2, VERSION, 4097),
            HEADER.pack(2, VERSION, 0xFFFFFFFF),
        ],
    )
    def test_nonsense_on_the_channel_loses_the_device(self, ready: tuple[Rig, FakeBackend], data: bytes) -> None:
        rig, fake = ready
        os.write(fake.channel, data)
        rig.device.on_channel_readable()
        assert len(rig.broken) == 1
        with pytest.raises(DeviceBroken):
            rig.device.device_features()

    def test_a_backend_may_close_a_channel_that_it_does_not_need(self, ready: tuple[Rig, FakeBackend]) -> None:
        rig, fake = ready
        os.close(fake.channel)
        fake.channel = -1
        rig.device.on_channel_readable()
        assert rig.broken == []
        rig.drive()

    def test_a_ring_that_the_driver_broke_is_reported(self, ready: tuple[Rig, FakeBackend]) -> None:
        rig, fake = ready
        errors: list[int] = []

        def keep(fake: FakeBackend, frame: Frame) -> None:
            errors.extend(frame.take_fds())
            fake.honest(frame)

        fake.answers["SET_VRING_ERR"] = keep
        rig.drive(0)
        os.set_blocking(errors[0], True)
        os.eventfd_write(errors[0], 1)
        rig.device.on_channel_readable()
        rig.device.on_channel_readable()
        assert len(rig.broken) == 1
        rig.device.reset()
        rig.drive(1)
        os.eventfd_write(errors[1], 1)
        rig.device.on_channel_readable()
        assert len(rig.broken) == 2
        for fd in errors:
            os.close(fd)
