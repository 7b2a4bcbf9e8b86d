"""The front-end while backends come late, never, or again; die at any moment; and are called from many threads."""

from __future__ import annotations

import threading
from time import monotonic
from typing import TYPE_CHECKING

import pytest

from tests.wire.fake_backend import FakeBackend
from tests.wire.frontend_rig import Rig
from vmm_core.virtio.device import DeviceBroken

if TYPE_CHECKING:
    from collections.abc import Callable


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
