"""The front-end with honest backends of all sorts: ours, ones that lack features, ones that come late or come back."""

from __future__ import annotations

import os
import re
import socket
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest

from backends.runtime.server import Server
from ipc import vhost_user as wire
from ipc.connection import HEADER, NEED_REPLY, VERSION
from ipc.fds import pair
from tests.wire.fake_backend import FEATURES, PROTOCOL, FakeBackend
from tests.wire.frontend_rig import HIGH_GPA, MIB, Rig
from tests.wire.memory_device import MemoryDevice
from vmm_core.vhost.rings import USER_ADDRESS_BASE
from vmm_core.virtio.device import DeviceBroken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ipc.connection import Frame


@pytest.fixture
def rigs() -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(**options: Any) -> Rig:
        made.append(Rig(**options))
        return made[-1]

    yield make
    for rig in made:
        rig.close()


@pytest.fixture
def fakes() -> Iterator[Callable[..., FakeBackend]]:
    made: list[FakeBackend] = []

    def make(**options: Any) -> FakeBackend:
        made.append(FakeBackend(**options))
        return made[-1]

    yield make
    for fake in made:
        fake.close()


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


class TestArrival:
    def test_a_call_waits_for_the_backend(self, rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]) -> None:
        rig = rigs()
        fake = fakes()
        later = threading.Timer(0.05, rig.device.attach, (fake.end,))
        later.start()
        assert rig.device.device_features() & 1 << 32
        later.join()

    def test_no_call_waits_for_ever(self, rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]) -> None:
        rig = rigs(timeout=0.05)
        with pytest.raises(DeviceBroken, match=r"within 0\.05 s"):
            rig.device.device_features()
        assert len(rig.broken) == 1
        rig.attach(fakes())
        assert rig.device.device_features() & 1 << 32

    def test_a_backend_that_died_before_it_came_ends_the_wait(self, rigs: Callable[..., Rig]) -> None:
        rig = rigs(timeout=30)
        later = threading.Timer(0.05, rig.device.fail, ("it exited with status 1",))
        later.start()
        with pytest.raises(DeviceBroken, match="status 1"):
            rig.device.read_config(0, 1)
        later.join()

    def test_closing_the_device_ends_the_wait(self, rigs: Callable[..., Rig]) -> None:
        rig = rigs(timeout=30)
        later = threading.Timer(0.05, rig.device.close)
        later.start()
        start = monotonic()
        with pytest.raises(DeviceBroken):
            rig.device.prepare()
        assert monotonic() - start < 10
        later.join()

    def test_a_reset_does_not_wait_for_a_backend_that_never_came(self, rigs: Callable[..., Rig]) -> None:
        rig = rigs(timeout=30)
        start = monotonic()
        rig.device.reset()
        rig.device.set_status(1)
        assert monotonic() - start < 5

    def test_a_backend_that_nobody_talked_to_is_not_leaked(
        self, rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]
    ) -> None:
        rig = rigs()
        rig.attach(fakes())
        rig.attach(fakes())

    def test_a_new_backend_serves_after_the_old_one_died(
        self, rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]
    ) -> None:
        rig = rigs()
        for number in range(1, 6):
            fake = rig.attach(fakes())
            rig.drive()
            fake.hang_up()
            with pytest.raises(DeviceBroken):
                rig.device.set_driver_features(1 << 32)
            rig.device.on_channel_readable()
            rig.device.reset()
            assert len(rig.broken) == number

    def test_calls_from_many_threads_take_turns(
        self, rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]
    ) -> None:
        rig = rigs()
        fake = rig.attach(fakes())
        results: list[bytes] = []

        def work() -> None:
            for _ in range(50):
                rig.device.write_config(32, b"\1")
                results.append(rig.device.read_config(0, 4))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [bytes(fake.config[:4])] * 200
        assert rig.broken == []


def test_backends_that_die_at_any_moment_leave_no_thread_stuck(
    rigs: Callable[..., Rig], fakes: Callable[..., FakeBackend]
) -> None:
    rig = rigs(timeout=2.0)
    over = threading.Event()
    started = 0

    def guest() -> None:
        nonlocal started
        while not over.is_set():
            try:
                rig.drive()
                started += 1
                rig.device.read_config(0, 60)
            except DeviceBroken:
                pass
            rig.device.reset()

    vcpus = [threading.Thread(target=guest) for _ in range(2)]
    for vcpu in vcpus:
        vcpu.start()
    for number in range(100):
        fake = rig.attach(fakes())
        while len(fake.seen) < number and not rig.broken:  # let each get a little further than the last
            rig.device.on_channel_readable()
        fake.hang_up()
        rig.device.on_channel_readable()
        rig.broken.clear()
    rig.device.fail("the end")
    over.set()
    for vcpu in vcpus:
        vcpu.join(20)
        assert not vcpu.is_alive()
    assert started > 0


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
