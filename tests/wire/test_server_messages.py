"""Each message of the table, well-formed and malformed, against a backend: nothing hangs, leaks or is believed."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from ipc import vhost_user as wire
from ipc.connection import HEADER, MAX_PAYLOAD, NEED_REPLY, REPLY, VERSION
from tests.wire.raw_frontend import HIGH, LOW, USER, RawFrontend

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.wire.memory_device import MemoryDevice

REQUESTS = sorted(wire.FRONTEND_REQUESTS.values(), key=lambda message: message.id)
VALID: dict[str, tuple[Any, ...]] = {  # values of a request that a fresh, greeted session with memory accepts
    "SET_FEATURES": (1 << 32 | 1 << 30,),
    "SET_MEM_TABLE": ([LOW, HIGH],),
    "SET_LOG_BASE": (4096, 0),
    "SET_VRING_NUM": (0, 64),
    "SET_VRING_ADDR": (0, 0, USER, USER + 0x2000, USER + 0x1000, 0),
    "SET_VRING_BASE": (0, 5),
    "GET_VRING_BASE": (0, 0),
    "SET_VRING_KICK": (0,),
    "SET_VRING_CALL": (0,),
    "SET_VRING_ERR": (0,),
    "SET_PROTOCOL_FEATURES": (wire.bits(wire.REPLY_ACK),),
    "SET_VRING_ENABLE": (0, 1),
    "GET_CONFIG": (0, 8, 0, bytes(8)),
    "SET_CONFIG": (32, 1, 0, b"\1"),
    "GET_INFLIGHT_FD": (0, 0, 1, 64),
    "SET_INFLIGHT_FD": (1 << 20, 0, 1, 64),
    "SET_STATUS": (15,),
    "REM_MEM_REG": HIGH,
    "ADD_MEM_REG": (16 << 20, 1 << 20, USER + (16 << 20), 0),
}
NOT_OURS = (  # for device types that have these, or for features that we do not offer
    "SEND_RARP",
    "NET_SET_MTU",
    "IOTLB_MSG",
    "SET_VRING_ENDIAN",
    "CREATE_CRYPTO_SESSION",
    "CLOSE_CRYPTO_SESSION",
    "POSTCOPY_ADVISE",
    "POSTCOPY_LISTEN",
    "POSTCOPY_END",
    "GPU_SET_SOCKET",
    "VRING_KICK",
    "GET_SHARED_OBJECT",
    "SET_DEVICE_STATE_FD",
    "CHECK_DEVICE_STATE",
    "GET_SHMEM_CONFIG",
)
SERVED = [message.name for message in REQUESTS if message.name not in NOT_OURS]


def by_name(name: str) -> wire.Message:
    return next(message for message in REQUESTS if message.name == name)


def fds_for(message: wire.Message, ram: int, count: int) -> list[int]:
    """Descriptors of the right kind, as many as wanted, all the test's own."""
    if message is wire.SET_BACKEND_REQ_FD:
        return [socket.socket(socket.AF_UNIX).detach() for _ in range(count)]
    if message.index:
        return [os.eventfd(0) for _ in range(count)]
    return [os.dup(ram) for _ in range(count)]


def natural_fds(message: wire.Message) -> int:
    if message is wire.SET_MEM_TABLE:
        return 2
    return 0 if message is wire.REM_MEM_REG else message.fds[1]


@pytest.fixture
def ready(frontend: RawFrontend, ram: int) -> RawFrontend:
    frontend.map_ram(ram)
    frontend.set_ring(0)
    return frontend


@pytest.fixture
def given(ram: int) -> Any:
    """Opens descriptors for a message; closed when the test is over."""
    opened: list[int] = []

    def give(message: wire.Message, count: int) -> list[int]:
        opened.extend(fds := fds_for(message, ram, count))
        return fds

    yield give
    for fd in opened:
        os.close(fd)


@pytest.mark.parametrize("name", SERVED)
def test_a_valid_message_is_accepted(ready: RawFrontend, given: Any, name: str) -> None:
    message = by_name(name)
    if not message.allowed(ready.protocol):
        pytest.skip(f"the backend offers no {wire.PROTOCOL_FEATURE_NAMES[message.gate or 0]}")
    if message is wire.REM_MEM_REG:
        ready.map_ram(given(wire.ADD_MEM_REG, 1)[0])
    if message.replies(ready.protocol):
        ready.call(message, *VALID.get(name, ()), fds=given(message, natural_fds(message)))
    else:
        assert ready.acknowledged(message, *VALID.get(name, ()), fds=given(message, natural_fds(message)))
    assert not ready.closed()


@pytest.mark.parametrize("name", NOT_OURS)
def test_a_message_of_another_device_type_is_refused(ready: RawFrontend, given: Any, name: str) -> None:
    message = by_name(name)
    payload = bytes(message.payload.size)
    assert not ready.acknowledged(message, payload=payload, fds=given(message, message.fds[0]))


@pytest.mark.parametrize(
    ("name", "change"), [(name, change) for name in SERVED for change in (-1, 1, 8) if change > 0 or name in VALID]
)
def test_a_payload_of_the_wrong_size_is_refused(ready: RawFrontend, given: Any, name: str, change: int) -> None:
    message = by_name(name)
    payload = message.payload.pack(*VALID.get(name, ()))
    wrong = payload[:change] if change < 0 else payload + bytes(change)
    assert not ready.acknowledged(message, payload=wrong, fds=given(message, natural_fds(message)))


@pytest.mark.parametrize("name", SERVED)
def test_surplus_descriptors_are_refused(ready: RawFrontend, given: Any, name: str) -> None:
    message = by_name(name)
    surplus = given(message, message.fds[1] + 1)
    assert not ready.acknowledged(message, *VALID.get(name, ()), fds=surplus)


@pytest.mark.parametrize("name", [name for name in SERVED if by_name(name).fds[1] and name != "REM_MEM_REG"])
def test_missing_descriptors_are_refused(ready: RawFrontend, name: str) -> None:
    assert not ready.acknowledged(by_name(name), *VALID.get(name, ()))


@pytest.mark.parametrize("request_id", [0, 45, 46, 100, 1 << 16, (1 << 32) - 1])
def test_an_unknown_request_is_refused(frontend: RawFrontend, request_id: int) -> None:
    frontend.raw(HEADER.pack(request_id, VERSION | NEED_REPLY, 0))
    frame = frontend.receive()
    assert frame.request == request_id
    assert frame.payload != bytes(8)


def test_an_unknown_request_without_acknowledgement_ends_the_session(frontend: RawFrontend) -> None:
    frontend.raw(HEADER.pack(99, VERSION, 0))
    assert frontend.closed()


@pytest.mark.parametrize("version", [0, 2, 3])
def test_another_protocol_version_ends_the_session(frontend: RawFrontend, version: int) -> None:
    frontend.raw(HEADER.pack(wire.GET_FEATURES.id, version, 0))
    assert frontend.closed()


def test_a_request_marked_as_reply_ends_the_session(frontend: RawFrontend) -> None:
    frontend.send(wire.GET_FEATURES, flags=VERSION | REPLY)
    assert frontend.closed()


@pytest.mark.parametrize("size", [MAX_PAYLOAD + 1, 1 << 31, (1 << 32) - 1])
def test_an_oversized_payload_ends_the_session_before_it_is_read(frontend: RawFrontend, size: int) -> None:
    frontend.raw(HEADER.pack(wire.SET_FEATURES.id, VERSION, size))
    assert frontend.closed()


@pytest.mark.parametrize("length", [1, 11, 12, 19])
def test_a_truncated_message_leaves_nothing_behind(
    connect_frontend: Callable[[], RawFrontend], ram: int, length: int
) -> None:
    one = connect_frontend()
    message = HEADER.pack(wire.SET_VRING_CALL.id, VERSION, 8) + bytes(8)
    one.raw(message[:length], [ram, ram])
    one.close()
    two = connect_frontend()
    two.greet()
    assert not two.closed()


def test_a_message_that_comes_in_single_bytes_is_understood(frontend: RawFrontend) -> None:
    for byte in HEADER.pack(wire.GET_FEATURES.id, VERSION, 0):
        frontend.raw(bytes([byte]))
    assert frontend.receive().request == wire.GET_FEATURES.id


@pytest.mark.parametrize("count", [33, 64, 200])
def test_more_descriptors_than_fit_end_the_session(frontend: RawFrontend, ram: int, count: int) -> None:
    frontend.send(wire.SET_OWNER, fds=[ram] * count)
    assert frontend.closed()


def test_need_reply_means_nothing_without_reply_ack(connect_frontend: Callable[[], RawFrontend]) -> None:
    one = connect_frontend()
    one.greet(without=wire.bits(wire.REPLY_ACK))
    one.send(wire.SET_OWNER, flags=VERSION | NEED_REPLY)
    one.send(wire.GET_FEATURES)
    assert one.receive().request == wire.GET_FEATURES.id


@pytest.mark.parametrize("message", [message for message in REQUESTS if message.gate is not None], ids=str)
def test_a_message_whose_feature_was_not_negotiated_is_refused(
    connect_frontend: Callable[[], RawFrontend], given: Any, message: wire.Message
) -> None:
    one = connect_frontend()
    one.greet(without=wire.bits(message.gate or 0))
    payload = message.payload.pack(*VALID[message.name]) if message.name in VALID else bytes(message.payload.size)
    one.send(message, payload=payload, fds=given(message, natural_fds(message)))
    if message is wire.GET_CONFIG:  # has a way of its own to say no
        assert one.receive().payload == b""
    else:
        assert one.closed() or message in (wire.SET_CONFIG, wire.SET_STATUS)


def test_features_that_were_not_offered_are_refused(frontend: RawFrontend) -> None:
    assert not frontend.acknowledged(wire.SET_FEATURES, 1 << 33)


def test_protocol_features_that_were_not_offered_are_refused(frontend: RawFrontend) -> None:
    unoffered = frontend.protocol | wire.bits(wire.INBAND_NOTIFICATIONS)
    assert not frontend.acknowledged(wire.SET_PROTOCOL_FEATURES, unoffered)


def test_the_features_reach_the_device(frontend: RawFrontend, device: MemoryDevice) -> None:
    assert frontend.acknowledged(wire.SET_FEATURES, 1 << 32 | wire.VHOST_FEATURES)
    assert device.acked == 1 << 32 | wire.VHOST_FEATURES


def test_the_status_can_be_read_back(frontend: RawFrontend) -> None:
    if not wire.SET_STATUS.allowed(frontend.protocol):
        pytest.skip("the backend offers no STATUS")
    frontend.send(wire.SET_STATUS, 11)
    assert frontend.call(wire.GET_STATUS) == (11,)
    frontend.send(wire.SET_STATUS, 256)  # not a byte: refused, but a guest could cause it, so no reason to hang up
    assert frontend.call(wire.GET_STATUS) == (11,)


class TestConfigurationSpace:
    def test_a_write_is_read_back(self, frontend: RawFrontend, device: MemoryDevice) -> None:
        assert frontend.acknowledged(wire.SET_CONFIG, 32, 1, wire.CONFIG_WRITABLE, b"\1")
        assert frontend.call(wire.GET_CONFIG, 32, 1, 0, b"\0")[3] == b"\1"

    def test_a_read_only_field_is_refused_unless_migrating(self, frontend: RawFrontend, device: MemoryDevice) -> None:
        assert not frontend.acknowledged(wire.SET_CONFIG, 0, 1, wire.CONFIG_WRITABLE, b"\7")
        assert frontend.acknowledged(wire.SET_CONFIG, 0, 1, wire.CONFIG_MIGRATION, b"\7")

    def test_a_guest_that_writes_read_only_fields_does_not_lose_its_device(self, frontend: RawFrontend) -> None:
        for _ in range(200):
            frontend.send(wire.SET_CONFIG, 0, 1, wire.CONFIG_WRITABLE, b"\7")
        assert not frontend.closed()

    @pytest.mark.parametrize(("offset", "size"), [(0, 0), (256, 1), (1, 256), ((1 << 32) - 1, 1)])
    def test_a_read_outside_is_refused(self, frontend: RawFrontend, offset: int, size: int) -> None:
        frontend.send(wire.GET_CONFIG, offset, size, 0, bytes(size))
        assert frontend.receive().payload == b""
        assert not frontend.closed()

    @pytest.mark.parametrize(("size", "carried"), [(8, 4), (4, 8), (0, 4), ((1 << 32) - 1, 4)])
    def test_a_size_that_lies_is_refused(self, frontend: RawFrontend, size: int, carried: int) -> None:
        frontend.send(wire.GET_CONFIG, payload=wire.GET_CONFIG.payload.struct.pack(0, size, 0) + bytes(carried))
        assert frontend.receive().payload == b""


def test_refusals_do_not_flood_the_log(frontend: RawFrontend, device: MemoryDevice, backend_log: list[str]) -> None:
    for _ in range(1000):
        assert not frontend.acknowledged(wire.SET_VRING_NUM, 0, 0)
    assert 1 < len(backend_log) <= 50
