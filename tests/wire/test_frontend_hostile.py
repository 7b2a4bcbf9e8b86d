"""The front-end with backends that lie, stall, leak or die: the device is lost, the VMM is not."""

from __future__ import annotations

import os
import socket
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipc import vhost_user as wire
from ipc.connection import HEADER, NEED_REPLY, REPLY, VERSION
from ipc.vhost_user_layout import U64
from tests.wire.conftest import open_fds
from tests.wire.fake_backend import FEATURES, PROTOCOL, FakeBackend
from tests.wire.frontend_rig import Rig
from vmm_core.errors import VmmError
from vmm_core.vhost import rings
from vmm_core.vhost.connect import connect
from vmm_core.virtio.device import DeviceBroken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ipc.connection import Frame

SHORT = 0.2  # seconds a stalling backend is waited for
CALLED = [  # every request that a device's life brings about
    "GET_FEATURES",
    "GET_PROTOCOL_FEATURES",
    "SET_PROTOCOL_FEATURES",
    "SET_OWNER",
    "GET_QUEUE_NUM",
    "GET_MAX_MEM_SLOTS",
    "SET_BACKEND_REQ_FD",
    "GET_CONFIG",
    "SET_FEATURES",
    "ADD_MEM_REG",
    "SET_LOG_BASE",
    "GET_INFLIGHT_FD",
    "SET_INFLIGHT_FD",
    "SET_VRING_NUM",
    "SET_VRING_BASE",
    "SET_VRING_ADDR",
    "SET_VRING_ERR",
    "SET_VRING_CALL",
    "SET_VRING_KICK",
    "SET_VRING_ENABLE",
    "SET_STATUS",
]
AFTERWARDS = ["GET_VRING_BASE", "RESET_DEVICE"]
ANSWERED = [name for name in CALLED + AFTERWARDS if name != "SET_PROTOCOL_FEATURES"]


class Scene:
    """A device and a backend that misbehaves in one respect."""

    def __init__(self, **options: Any) -> None:
        self.rig = Rig(dirty_log=True, timeout=SHORT)
        self.fake = FakeBackend(**options)
        self.rig.attach(self.fake)

    def live(self) -> None:
        """A driver's life; DeviceBroken when the backend is found out, except in `reset`, which never complains."""
        self.rig.device.read_config(0, 8)
        self.rig.drive()
        self.rig.device.reset()

    def is_lost(self) -> bool:
        """Whether the device gave its backend up, once and in bounded time."""
        start, said = monotonic(), ""
        try:
            self.live()
        except DeviceBroken as error:
            said = str(error)
        assert monotonic() - start < 5
        return len(self.rig.broken) == 1 and said in ("", *self.rig.broken)

    def close(self) -> None:
        self.rig.close()
        self.fake.close()


@pytest.fixture
def scenes() -> Iterator[Callable[..., Scene]]:
    made: list[Scene] = []

    def make(**options: Any) -> Scene:
        made.append(Scene(**options))
        return made[-1]

    yield make
    for scene in made:
        scene.close()


def lie(name: str) -> Callable[[FakeBackend, Frame], None]:
    """An answer to any request that is wrong in the way `name` says."""

    def answer(fake: FakeBackend, frame: Frame) -> None:
        honest = 8  # the size of most answers
        if name == "reply of another request":
            fake.reply(frame, bytes(honest), request=frame.request + 1)
        elif name == "no reply flag":
            fake.reply(frame, bytes(honest), flags=VERSION)
        elif name == "another version":
            fake.reply(frame, bytes(honest), flags=REPLY | 2)
        elif name == "unknown flags":
            fake.reply(frame, bytes(honest), flags=VERSION | REPLY | 1 << 4)
        elif name == "larger than allowed":
            fake.raw(HEADER.pack(frame.request, VERSION | REPLY, 5000))
        elif name == "surplus descriptors":
            fake.reply(frame, bytes(honest), [0] * 5)
        elif name == "more descriptors than fit":
            fake.reply(frame, bytes(honest), [0] * 60)
        elif name == "half a header":
            fake.raw(HEADER.pack(frame.request, VERSION | REPLY, 8)[:6])
        elif name == "hangs up":
            fake.hang_up()
        else:
            assert name == "odd size"
            fake.reply(frame, bytes(23))

    return answer


LIES = [
    "reply of another request",
    "no reply flag",
    "another version",
    "unknown flags",
    "larger than allowed",
    "surplus descriptors",
    "more descriptors than fit",
    "half a header",
    "hangs up",
    "odd size",
]


@pytest.mark.parametrize("untruth", LIES)
@pytest.mark.parametrize("name", ANSWERED)
def test_a_lie_in_any_answer_loses_the_device(scenes: Callable[..., Scene], name: str, untruth: str) -> None:
    scene = scenes()
    scene.fake.answers[name] = lie(untruth)
    assert scene.is_lost()


@pytest.mark.parametrize("name", ["GET_FEATURES", "GET_CONFIG", "SET_FEATURES", "SET_VRING_KICK", "RESET_DEVICE"])
def test_silence_loses_the_device_in_bounded_time(scenes: Callable[..., Scene], name: str) -> None:
    scene = scenes()
    scene.fake.answers[name] = lambda fake, frame: None
    assert scene.is_lost()


@pytest.mark.parametrize("name", [name for name in ANSWERED if not name.startswith("GET_") and name != "SET_LOG_BASE"])
def test_a_refusal_while_setting_up_loses_the_device(scenes: Callable[..., Scene], name: str) -> None:
    scene = scenes()
    scene.fake.answers[name] = lambda fake, frame: fake.reply(frame, U64.pack(1))
    assert scene.is_lost()
    assert scene.rig.broken == [f"the backend refused {name}"]


def test_an_answer_that_nobody_asked_for_loses_the_device(scenes: Callable[..., Scene]) -> None:
    scene = scenes()

    def twice(fake: FakeBackend, frame: Frame) -> None:
        fake.honest(frame)
        fake.reply(frame, U64.pack(0))

    scene.fake.answers["SET_OWNER"] = twice
    assert scene.is_lost()


def test_an_echoed_need_reply_flag_is_forgiven(scenes: Callable[..., Scene]) -> None:
    """libvhost-user answers with the request's flags plus "reply"."""
    scene = scenes()
    echo = VERSION | REPLY | NEED_REPLY
    for name in ("SET_OWNER", "SET_FEATURES"):
        scene.fake.answers[name] = lambda fake, frame: fake.reply(frame, U64.pack(0), flags=echo)
    scene.live()
    assert scene.rig.broken == []


@pytest.mark.parametrize("payload", [b"", bytes(8), U64.pack(4096), bytes(16)])
def test_the_answer_to_set_log_base_may_say_anything(scenes: Callable[..., Scene], payload: bytes) -> None:
    """libvhost-user answers with left-over bytes, DPDK with none."""
    scene = scenes()
    scene.fake.answers["SET_LOG_BASE"] = lambda fake, frame: fake.reply(frame, payload)
    scene.live()
    assert scene.rig.broken == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"features": FEATURES & ~(1 << 32)}, "VIRTIO_F_VERSION_1"),
        ({"queues": 1}, "has 1 queues"),
        ({"queues": 0}, "has 0 queues"),
        ({"protocol": PROTOCOL & ~wire.bits(wire.CONFIG_SPACE)}, "configuration space"),
        ({"protocol": PROTOCOL & ~wire.bits(wire.LOG_SHMFD)}, "dirty log"),
        ({"features": FEATURES & ~wire.bits(wire.F_LOG_ALL)}, "dirty log"),
        ({"features": 0}, "VIRTIO_F_VERSION_1"),
    ],
)
def test_a_backend_that_cannot_do_it_is_told_so(
    scenes: Callable[..., Scene], options: dict[str, int], reason: str
) -> None:
    scene = scenes(**options)
    with pytest.raises(DeviceBroken, match=reason):
        scene.rig.device.device_features()
    assert len(scene.rig.broken) == 1


def test_features_beyond_the_machine_s_are_not_offered_to_the_guest(scenes: Callable[..., Scene]) -> None:
    scene = scenes(features=(1 << 64) - 1)
    assert scene.rig.device.device_features() == 1 << 32 | 1 << 34 | 0xFF


def test_a_backend_with_too_few_memory_slots_is_refused(scenes: Callable[..., Scene]) -> None:
    scene = scenes()
    scene.fake.slots = 1
    assert scene.is_lost()
    assert "memory regions" in scene.rig.broken[0]


@pytest.mark.parametrize(
    "answer", [b"", wire.GET_CONFIG.payload.pack(0, 0, 0, b""), wire.GET_CONFIG.payload.pack(0, 8, 0, bytes(8))]
)
def test_a_short_configuration_loses_the_device(scenes: Callable[..., Scene], answer: bytes) -> None:
    scene = scenes()
    scene.fake.answers["GET_CONFIG"] = lambda fake, frame: fake.reply(frame, answer)
    assert scene.is_lost()


@pytest.mark.parametrize(
    ("size", "offset"), [(8193, 0), (4096, 8192), ((1 << 64) - 1, 4096), (4096, (1 << 64) - 1), (1 << 40, 0)]
)
def test_an_inflight_region_outside_its_file_loses_the_device(
    scenes: Callable[..., Scene], ram: int, size: int, offset: int
) -> None:
    scene = scenes()
    fd = os.memfd_create("small")
    os.ftruncate(fd, 8192)
    reply = wire.GET_INFLIGHT_FD.payload.pack(size, offset, 2, 128)
    scene.fake.answers["GET_INFLIGHT_FD"] = lambda fake, frame: fake.reply(frame, reply, [fd])
    assert scene.is_lost()
    os.close(fd)


@pytest.mark.parametrize("kind", ["pipe", "file of a file system"])
def test_an_inflight_region_that_is_not_in_memory_loses_the_device(scenes: Callable[..., Scene], kind: str) -> None:
    """The event loop looks into it: a file system that its owner serves, too, could hold that up for ever."""
    scene = scenes()
    ends = os.pipe() if kind == "pipe" else (os.open("/proc/self/status", os.O_RDONLY),)
    reply = wire.GET_INFLIGHT_FD.payload.pack(4096, 0, 2, 128)
    scene.fake.answers["GET_INFLIGHT_FD"] = lambda fake, frame: fake.reply(frame, reply, [ends[0]])
    assert scene.is_lost()
    assert scene.rig.broken == ["the backend's inflight region is no file in memory"]
    for fd in ends:
        os.close(fd)


def test_of_a_huge_inflight_region_only_the_rings_part_is_looked_at() -> None:
    fd = os.memfd_create("huge")
    os.ftruncate(fd, rings.MAX_INFLIGHT)
    os.pwrite(fd, b"\1", rings.SPLIT_ENTRY)  # a request in flight
    region = rings.Inflight(fd, rings.MAX_INFLIGHT, 0, queues=2, queue_size=128)
    assert len(region.busy(packed=False)) == 2 * region.stride(rings.SPLIT_ENTRY)
    region.close()


def test_a_backend_that_wants_no_inflight_region_is_left_alone(scenes: Callable[..., Scene]) -> None:
    scene = scenes()
    reply = wire.GET_INFLIGHT_FD.payload.pack(0, 0, 2, 128)
    scene.fake.answers["GET_INFLIGHT_FD"] = lambda fake, frame: fake.reply(frame, reply)
    scene.live()
    assert scene.rig.broken == []
    assert "SET_INFLIGHT_FD" not in scene.fake.names()


def test_a_base_of_another_ring_loses_the_device(scenes: Callable[..., Scene]) -> None:
    scene = scenes()
    scene.fake.answers["GET_VRING_BASE"] = lambda fake, frame: fake.reply(frame, wire.GET_VRING_BASE.payload.pack(7, 0))
    assert scene.is_lost()


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(ANSWERED), st.binary(max_size=64), st.integers(0, 40), st.integers(0, 40))
def test_no_answer_crashes_or_leaks(name: str, payload: bytes, fds: int, flags: int) -> None:
    before = open_fds()
    scene = Scene()
    scene.fake.answers[name] = lambda fake, frame: fake.reply(frame, payload, [0] * fds, flags=flags)
    try:
        scene.live()
    except DeviceBroken:
        pass
    finally:
        scene.close()
    assert open_fds() == before


class TestConnect:
    def test_nobody_there(self, tmp_path: Path) -> None:
        start = monotonic()
        with pytest.raises(VmmError, match=r"cannot connect .*nowhere.sock: No such file"):
            connect(f"{tmp_path}/nowhere.sock", timeout=0.1)
        assert monotonic() - start < 2

    def test_a_socket_whose_program_is_gone(self, tmp_path: Path) -> None:
        path = f"{tmp_path}/s"
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(path)
        with pytest.raises(VmmError, match="Connection refused"):
            connect(path, timeout=0.1)

    def test_a_program_that_never_accepts_is_no_hang(self, tmp_path: Path) -> None:
        path = f"{tmp_path}/s"
        with socket.socket(socket.AF_UNIX) as busy:
            busy.bind(path)
            busy.listen(0)
            fds = [connect(path, timeout=1)]

            def fill_the_backlog() -> None:
                for _ in range(3):
                    fds.append(connect(path, timeout=0.1))

            with pytest.raises(VmmError, match="cannot connect"):
                fill_the_backlog()
            for fd in fds:
                os.close(fd)

    def test_a_path_that_is_too_long(self) -> None:
        with pytest.raises(VmmError, match="too long"):
            connect("/" + "x" * 200)
