"""The virtio-mmio transport against a driver that may do anything, on a bus without a CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmm_core._native import ffi, lib
from vmm_core.accel.test.vm import TestVm
from vmm_core.bus.dispatch import Bus
from vmm_core.loop import EventLoop
from vmm_core.virtio import device as virtio
from vmm_core.virtio import mmio

BASE, GSI = 0xF0100000, 5
OFFER = 1 << virtio.F_VERSION_1 | 1 << virtio.F_RING_PACKED | 0b10100
INTERRUPT_STATUS, INTERRUPT_ACK = 0x60, 0x64


class FakeDevice(virtio.VirtioDevice):
    virtio_id = virtio.ID_BLOCK
    queue_sizes = (256, 128)

    def __init__(self) -> None:
        self.features = 0
        self.started: list[virtio.QueueSetup] = []
        self.resets = 0
        self.config = bytearray(range(64))
        self.fail = False

    def device_features(self) -> int:
        if self.fail:
            raise virtio.DeviceBroken("the backend is gone")
        return OFFER

    def set_driver_features(self, features: int) -> None:
        self.features = features

    def read_config(self, offset: int, length: int) -> bytes:
        return bytes(self.config[offset : offset + length]).ljust(length, b"\0")

    def write_config(self, offset: int, data: bytes) -> None:
        self.config[offset : offset + len(data)] = data[: max(0, 64 - offset)]

    def activate(self, queues: list[virtio.QueueSetup]) -> None:
        if self.fail:
            raise virtio.DeviceBroken("the backend is gone")
        self.started = queues

    def reset(self) -> None:
        self.resets += 1
        self.started = []


class Driver:
    """A guest's side of one transport, through the C bus as a vCPU would reach it."""

    def __init__(self) -> None:
        self.loop = EventLoop()
        self.bus = Bus()
        self.vm = TestVm(self.bus.handle, self.loop)
        self.device = FakeDevice()
        self.transport = mmio.MmioTransport("disk", self.device, BASE, GSI, self.bus, self.vm)
        self.interrupts: list[tuple[int, int]] = []
        self.vm.on_interrupt = lambda gsi, level: self.interrupts.append((gsi, level))

    def access(self, offset: int, size: int, value: int | None = None) -> int:
        access = ffi.new(
            "struct sc_access *",
            {"address": BASE + offset, "data": value or 0, "size": size, "is_write": value is not None},
        )
        if not lib.sc_bus_access(self.bus.handle, access):
            self.bus.access(access)
        return int(access.data)

    def read(self, offset: int) -> int:
        return self.access(offset, 4)

    def write(self, offset: int, value: int) -> None:
        self.access(offset, 4, value)

    def negotiate(self, features: int = OFFER) -> int:
        for status in (1, 3):
            self.write(mmio.R_STATUS, status)
        for select in (0, 1):
            self.write(mmio.R_DRIVER_FEATURES_SEL, select)
            self.write(mmio.R_DRIVER_FEATURES, features >> 32 * select & 0xFFFFFFFF)
        self.write(mmio.R_STATUS, 11)
        return self.read(mmio.R_STATUS)

    def set_queue(self, index: int, size: int, address: int) -> None:
        self.write(mmio.R_QUEUE_SEL, index)
        self.write(mmio.R_QUEUE_NUM, size)
        for offset, (_name, shift) in mmio.QUEUE_ADDRESSES.items():
            self.write(offset, address >> shift & 0xFFFFFFFF)
        self.write(mmio.R_QUEUE_READY, 1)

    def start(self) -> None:
        self.negotiate()
        self.set_queue(0, 64, 0x1_2345_6000)
        self.write(mmio.R_STATUS, 15)


@pytest.fixture
def driver() -> Iterator[Driver]:
    driver = Driver()
    yield driver
    driver.transport.close()
    driver.loop.close()
    driver.bus.close()


def test_a_driver_finds_a_version_2_device_of_its_kind(driver: Driver) -> None:
    assert [driver.read(offset) for offset in (0, 4, 8, 12)] == [0x74726976, 2, 2, 0]
    driver.write(mmio.R_DEVICE_FEATURES_SEL, 1)
    assert driver.read(mmio.R_DEVICE_FEATURES) == OFFER >> 32
    driver.write(mmio.R_DEVICE_FEATURES_SEL, 2)
    assert driver.read(mmio.R_DEVICE_FEATURES) == 0
    driver.write(mmio.R_QUEUE_SEL, 1)
    assert driver.read(mmio.R_QUEUE_NUM_MAX) == 128
    driver.write(mmio.R_QUEUE_SEL, 2)
    assert driver.read(mmio.R_QUEUE_NUM_MAX) == 0
    assert driver.read(0xB0) == 0xFFFFFFFF, "no shared memory regions"


def test_a_started_queue_has_the_addresses_that_the_driver_wrote(driver: Driver) -> None:
    driver.start()
    (queue,) = driver.device.started
    assert (queue.index, queue.size) == (0, 64)
    assert (queue.descriptors, queue.driver_area, queue.device_area) == (0x1_2345_6000,) * 3


def test_features_that_were_not_offered_are_not_accepted(driver: Driver) -> None:
    assert not driver.negotiate(OFFER | 1) & virtio.FEATURES_OK
    driver.write(mmio.R_STATUS, 0)
    assert not driver.negotiate(0b100) & virtio.FEATURES_OK, "a legacy driver"
    driver.write(mmio.R_STATUS, 0)
    assert driver.negotiate() & virtio.FEATURES_OK
    assert driver.device.features == OFFER


def test_registers_of_a_running_queue_are_frozen(driver: Driver) -> None:
    driver.start()
    before = driver.transport._queues[0].setup(0)
    driver.set_queue(0, 128, 0xDEAD000)
    driver.write(mmio.R_DRIVER_FEATURES, 0)
    driver.write(mmio.R_QUEUE_READY, 0)
    assert driver.transport._queues[0].setup(0) == before
    driver.write(mmio.R_STATUS, 0)
    assert driver.device.resets == 1
    driver.negotiate()
    driver.set_queue(0, 128, 0x8000)
    driver.write(mmio.R_STATUS, 15)
    assert driver.device.started[0].size == 128, "another size after a reset"


@pytest.mark.parametrize("status", [15, 11, 7, 4, 1, 0x80, 0x8B, 0xFF])
def test_no_status_but_reset_thaws_a_running_device(driver: Driver, status: int) -> None:
    """Each register with each kind of value, while the driver claims to be at any other stage of its start."""
    driver.start()
    started, before = driver.device.started, driver.transport._queues[0].setup(0)
    driver.write(mmio.R_STATUS, status)
    for offset in (*range(0, mmio.R_STATUS, 4), *range(mmio.R_STATUS + 4, mmio.CONFIG_SPACE, 4)):
        for value in (0, 1, 128, 0xFFFFFFFF):
            driver.write(mmio.R_QUEUE_SEL, 0)
            driver.write(offset, value)
    for again in (3, 11, 15):
        driver.write(mmio.R_STATUS, again)
    assert driver.read(mmio.R_STATUS) & 15 == 15
    assert driver.transport._queues[0].setup(0) == before
    assert driver.device.started is started
    assert (driver.device.features, driver.device.resets) == (OFFER, 0)


@pytest.mark.parametrize("size", [0, 3, 512, 0xFFFFFFFF])
def test_impossible_queue_sizes_are_ignored(driver: Driver, size: int) -> None:
    driver.negotiate(1 << virtio.F_VERSION_1)
    driver.write(mmio.R_QUEUE_SEL, 0)
    driver.write(mmio.R_QUEUE_NUM, size)
    assert driver.transport._queues[0].size == 256


def test_a_packed_queue_may_have_any_size(driver: Driver) -> None:
    driver.negotiate()
    driver.write(mmio.R_QUEUE_SEL, 0)
    driver.write(mmio.R_QUEUE_NUM, 100)
    assert driver.transport._queues[0].size == 100


def test_a_doorbell_rings_only_its_own_queue(driver: Driver) -> None:
    driver.write(mmio.R_QUEUE_NOTIFY, 1)
    first, second = driver.transport._queues
    assert os.eventfd_read(second.kick_fd) == 1
    with pytest.raises(BlockingIOError):
        os.eventfd_read(first.kick_fd)


@pytest.mark.parametrize("value", [2, 0x100, 0x10000, 0xFFFFFFFF])
def test_a_doorbell_of_no_queue_is_ignored(driver: Driver, value: int) -> None:
    driver.write(mmio.R_QUEUE_NOTIFY, value)
    for queue in driver.transport._queues:
        with pytest.raises(BlockingIOError):
            os.eventfd_read(queue.kick_fd)


def test_a_configuration_change_interrupts_until_acknowledged(driver: Driver) -> None:
    driver.start()
    generation = driver.read(mmio.R_CONFIG_GENERATION)
    driver.transport.config_changed()
    driver.loop.run_once(5)
    assert driver.interrupts == [(GSI, 1), (GSI, 0)]
    assert driver.read(INTERRUPT_STATUS) == 3
    assert driver.read(mmio.R_CONFIG_GENERATION) != generation
    driver.write(INTERRUPT_ACK, 2)
    assert driver.read(INTERRUPT_STATUS) == 1, "the vring bit is always set: interrupts do not pass through the core"


def test_a_lost_backend_costs_the_device_and_not_the_vm(driver: Driver) -> None:
    driver.start()
    driver.transport.broken("killed")
    driver.loop.run_once(5)
    assert driver.read(mmio.R_STATUS) & virtio.NEEDS_RESET
    assert driver.read(INTERRUPT_STATUS) & mmio.INTERRUPT_CONFIG
    driver.write(mmio.R_STATUS, 0)
    assert driver.read(mmio.R_STATUS) == 0


def test_a_backend_that_fails_to_start_a_queue_shows_as_needing_a_reset(driver: Driver) -> None:
    driver.negotiate()
    driver.set_queue(0, 64, 0x1000)
    driver.device.fail = True
    driver.write(mmio.R_STATUS, 15)
    assert driver.read(mmio.R_STATUS) & virtio.NEEDS_RESET
    assert driver.read(mmio.R_DEVICE_FEATURES) == 0


@settings(max_examples=150, deadline=None)
@given(
    accesses=st.lists(
        st.tuples(
            st.integers(0, 0x1FF), st.sampled_from([1, 2, 4, 8]), st.one_of(st.none(), st.integers(0, (1 << 64) - 1))
        ),
        max_size=60,
    )
)
def test_no_sequence_of_register_accesses_breaks_the_transport(accesses: list[tuple[int, int, int | None]]) -> None:
    driver = Driver()
    try:
        for offset, size, value in accesses:
            driver.access(offset, size, None if value is None else value & (1 << 8 * size) - 1)
        driver.write(mmio.R_STATUS, 0)
        driver.start()
        assert driver.device.started
    finally:
        driver.transport.close()
        driver.loop.close()
        driver.bus.close()


def test_a_full_blocking_kick_does_not_hang_a_vcpu_that_has_no_doorbell(driver: Driver) -> None:
    driver.start()
    (queue,) = driver.device.started
    os.eventfd_write(queue.kick_fd, 2**64 - 2)
    os.set_blocking(queue.kick_fd, True)
    driver.transport.write(mmio.R_QUEUE_NOTIFY, 4, 0)
    os.eventfd_read(queue.kick_fd)
    driver.transport.write(mmio.R_QUEUE_NOTIFY, 4, 0)
    assert os.eventfd_read(queue.kick_fd) == 1


def test_a_guest_cannot_fill_the_log_with_a_dead_device(driver: Driver, capfd: pytest.CaptureFixture[str]) -> None:
    driver.device.fail = True
    for _ in range(100):
        driver.read(mmio.R_DEVICE_FEATURES)
        driver.write(mmio.R_STATUS, 0)
    for number in range(100):
        driver.transport.broken(f"reason {number}")
        driver.write(mmio.R_STATUS, 0)
    assert capfd.readouterr().err.count("needing a reset") == mmio.MAX_REASONS
