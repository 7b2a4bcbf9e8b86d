"""The front-end with honest backends of all sorts: ours, ones that lack features, ones that come late or come back."""

from __future__ import annotations

import os
import re
import threading
from typing import TYPE_CHECKING

import pytest

from backends.runtime.server import Server
from ipc import vhost_user as wire
from ipc.fds import pair
from tests.wire.fake_backend import FEATURES, PROTOCOL, FakeBackend
from tests.wire.frontend_rig import HIGH_GPA, MIB, Rig
from tests.wire.memory_device import MemoryDevice
from vmm_core.vhost.rings import USER_ADDRESS_BASE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class OurBackend:
    """Our server, with a device in memory, on a thread."""

    def __init__(self) -> None:
        self.device = MemoryDevice()
        self.end, theirs = pair()
        self._server = Server(self.device, lambda line: None)
        self._thread = threading.Thread(target=self._server.serve_connection, args=(theirs,))
        self._thread.start()

    def close(self) -> None:
        self._server.stop()
        self._thread.join(10)
        self._server.close()


@pytest.fixture
def ours() -> Iterator[OurBackend]:
    backend = OurBackend()
    yield backend
    backend.close()


class TestWithOurBackend:
    def test_the_rings_run_where_the_driver_put_them(self, rigs: Callable[..., Rig], ours: OurBackend) -> None:
        rig = rigs()
        rig.device.attach(ours.end)
        assert rig.device.device_features() == MemoryDevice.features
        rig.drive(0, 1)
        base = USER_ADDRESS_BASE
        assert ours.device.started == ours.device.enabled == {0, 1}
        assert ("addr", 1, 0, base + 0x20000, base + 0x22000, base + 0x21000, 0) in ours.device.calls
        assert sorted(ours.device.regions) == [(0, MIB, base), (HIGH_GPA, MIB, base + HIGH_GPA)]
        assert ours.device.inflight_fd >= 0
        assert ours.device.calls[-1] == ("status", 15)
        assert rig.broken == []

    def test_with_a_dirty_log_everything_is_logged(self, rigs: Callable[..., Rig], ours: OurBackend) -> None:
        rig = rigs(dirty_log=True)
        rig.device.attach(ours.end)
        rig.drive(0)
        assert ours.device.acked >> wire.F_LOG_ALL & 1
        assert ours.device.log_fd >= 0
        assert os.fstat(ours.device.log_fd).st_size * 8 * 4096 >= HIGH_GPA + MIB
        assert next(call for call in ours.device.calls if call[0] == "addr")[-1] == 0x12000

    def test_a_reset_stops_the_rings_and_the_driver_can_start_again(
        self, rigs: Callable[..., Rig], ours: OurBackend
    ) -> None:
        rig = rigs()
        rig.device.attach(ours.end)
        for _ in range(20):
            rig.drive(0, 1)
            rig.device.reset()
            assert not ours.device.started
        assert len(ours.device.regions) == 2
        assert rig.broken == []

    def test_memory_can_be_added_and_removed_while_rings_run(self, rigs: Callable[..., Rig], ours: OurBackend) -> None:
        rig = rigs()
        rig.device.attach(ours.end)
        rig.drive(0)
        rig.device.set_memory((rig.memory[0], rig.region(2 * HIGH_GPA, 0)))
        assert sorted(gpa for gpa, _, _ in ours.device.regions) == [0, 2 * HIGH_GPA]

    def test_a_change_of_configuration_reaches_the_driver(self, rigs: Callable[..., Rig], ours: OurBackend) -> None:
        rig = rigs()
        rig.device.attach(ours.end)
        assert rig.device.read_config(0, 4) == b"\0\1\2\3"
        ours.device.config[0] = 99
        assert rig.device.read_config(0, 4) == b"\0\1\2\3"  # cached
        assert ours.device.config_change_notifier is not None
        ours.device.config_change_notifier()
        rig.device.on_channel_readable()
        assert rig.changes == 1
        assert rig.device.read_config(0, 4) == b"\x63\1\2\3"

    def test_a_write_to_a_read_only_field_is_without_effect(self, rigs: Callable[..., Rig], ours: OurBackend) -> None:
        rig = rigs()
        rig.device.attach(ours.end)
        rig.device.write_config(0, b"\x77")
        assert rig.device.read_config(0, 1) == b"\0"
        rig.device.write_config(32, b"\x77")
        assert rig.device.read_config(32, 1) == b"\x77"
        for offset in (59, 60, 1 << 31, -1):
            rig.device.write_config(offset, b"\1\2\3\4")
        assert rig.broken == []

    def test_a_guest_cannot_fill_the_log_with_refused_writes(
        self, rigs: Callable[..., Rig], ours: OurBackend, capfd: pytest.CaptureFixture[str]
    ) -> None:
        rig = rigs()
        rig.device.attach(ours.end)
        for _ in range(100):
            rig.device.write_config(0, b"\x77")
        assert 1 <= capfd.readouterr().err.count("\n") <= 10

    def test_the_backend_s_death_is_noticed_without_a_call(self, rigs: Callable[..., Rig], ours: OurBackend) -> None:
        rig = rigs()
        rig.device.attach(ours.end)
        rig.drive()
        ours.close()
        rig.device.on_channel_readable()
        assert rig.broken == ["the backend closed the connection"]
        rig.device.on_channel_readable()
        assert len(rig.broken) == 1
        ours.__init__()  # type: ignore[misc]  # for the fixture to close
        os.close(ours.end)


def test_reads_past_the_configuration_are_zero(rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]) -> None:
    rig = rigs()
    rig.attach(fakes())
    assert rig.device.read_config(58, 4) == b"\x3a\x3b\0\0"
    assert rig.device.read_config(1000, 2) == b"\0\0"
    assert rig.device.read_config(-4, 4) == bytes(4)


def test_a_disk_has_as_many_queues_as_the_machine_gave_it(
    rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]
) -> None:
    rig = rigs(queues=2)
    rig.attach(fakes(queues=8))
    assert rig.device.read_config(34, 2) == b"\2\0"


def test_memory_can_change_where_a_backend_knows_only_tables(
    rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]
) -> None:
    rig = rigs()
    fake = rig.attach(fakes(protocol=PROTOCOL & ~wire.bits(wire.CONFIGURE_MEM_SLOTS)))
    rig.drive()
    rig.device.set_memory(rig.memory[:1])
    assert fake.seen[-1] == ("SET_MEM_TABLE", ([(0, MIB, USER_ADDRESS_BASE, 0)],))


@pytest.mark.parametrize("missing", [bit for bit in range(17) if PROTOCOL >> bit & 1 and bit != wire.CONFIG_SPACE])
def test_any_protocol_feature_may_be_missing(
    rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend], missing: int
) -> None:
    rig = rigs()
    fake = rig.attach(fakes(protocol=PROTOCOL & ~wire.bits(missing)))
    rig.drive()
    rig.device.reset()
    rig.drive()
    assert rig.broken == []
    gated = {message.name for message in wire.FRONTEND_REQUESTS.values() if message.gate == missing}
    assert not gated & set(fake.names())


def test_a_backend_without_any_protocol_feature_serves_a_device_without_configuration(
    rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]
) -> None:
    rig = rigs(virtio_id=4)  # an entropy device
    fake = rig.attach(fakes(features=FEATURES & ~wire.bits(wire.F_PROTOCOL_FEATURES)))
    rig.drive()
    assert rig.device.read_config(0, 4) == bytes(4)
    assert rig.broken == []
    assert "SET_VRING_ENABLE" not in fake.names()
    assert ("SET_FEATURES", (1 << 32,)) in fake.seen


def test_packed_rings_start_with_both_wrap_counters_set(
    rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]
) -> None:
    rig = rigs()
    fake = rig.attach(fakes())
    rig.drive(0, features=1 << 32 | 1 << 34)
    assert ("SET_VRING_BASE", (0, 0x80008000)) in fake.seen


def test_the_core_s_own_addresses_stay_secret(rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]) -> None:
    rig = rigs()
    fake = rig.attach(fakes(protocol=PROTOCOL & ~wire.bits(wire.CONFIGURE_MEM_SLOTS)))
    rig.drive()
    numbers = [int(number) for number in re.findall(r"\d+", repr(fake.seen))]
    assert not [number for number in numbers if number >> 32 == 0x5555]
    assert ("SET_MEM_TABLE", ([(0, MIB, 1 << 46, 0), (HIGH_GPA, MIB, (1 << 46) + HIGH_GPA, MIB)],)) in fake.seen


def test_driver_ok_is_told_only_when_the_rings_are_set_up(
    rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]
) -> None:
    rig = rigs()
    fake = rig.attach(fakes())
    rig.drive()
    states = [(name, values) for name, values in fake.seen if name in ("SET_STATUS", "SET_VRING_KICK")]
    assert states[0] == ("SET_STATUS", (11,))
    assert states[-1] == ("SET_STATUS", (15,))
