"""The virtio-mmio transport, version 2 (virtio 1.2, section 4.2), over any VirtioDevice.

Doorbells are ioeventfds and vring interrupts irqfds, so neither passes through here. InterruptStatus and InterruptACK
are answered in C (`sc_bus_add_virtio_mmio`): the vring bit always reads as set, the configuration bit is ours.
"""

from __future__ import annotations

import os
import select
from _thread import RLock

from vmm_core import log
from vmm_core._native import ffi, lib
from vmm_core.bus.dispatch import check
from vmm_core.virtio import device as virtio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm_core.accel.base import AccelVm
    from vmm_core.bus.dispatch import Bus

MAGIC, VERSION, VENDOR = 0x74726976, 2, 0
PAGE_LENGTH, CONFIG_SPACE = 0x200, 0x100
INTERRUPT_CONFIG = 2
(R_MAGIC, R_VERSION, R_DEVICE_ID, R_VENDOR_ID, R_DEVICE_FEATURES, R_DEVICE_FEATURES_SEL) = (
    0x00,
    0x04,
    0x08,
    0x0C,
    0x10,
    0x14,
)
(R_DRIVER_FEATURES, R_DRIVER_FEATURES_SEL, R_QUEUE_SEL, R_QUEUE_NUM_MAX, R_QUEUE_NUM) = (0x20, 0x24, 0x30, 0x34, 0x38)
(R_QUEUE_READY, R_QUEUE_NOTIFY, R_STATUS, R_CONFIG_GENERATION) = (0x44, 0x50, 0x70, 0xFC)
QUEUE_ADDRESSES = {  # register: field, bits to shift by
    0x80: ("descriptors", 0),
    0x84: ("descriptors", 32),
    0x90: ("driver_area", 0),
    0x94: ("driver_area", 32),
    0xA0: ("device_area", 0),
    0xA4: ("device_area", 32),
}
SHARED_MEMORY = range(0xB0, 0xC0, 4)  # length and base of the selected region: all ones means "none"
ALL_ONES = 0xFFFFFFFF
MAX_REASONS = 8  # log lines about a broken device


class _Queue:
    """One virtqueue's registers, and the two eventfds that live as long as the device."""

    def __init__(self, max_size: int) -> None:
        self.max_size = max_size
        self.kick_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.call_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.clear()

    def clear(self) -> None:
        self.size = self.max_size
        self.ready = False
        self.descriptors = self.driver_area = self.device_area = 0

    def setup(self, index: int) -> virtio.QueueSetup:
        return virtio.QueueSetup(
            index=index,
            size=self.size,
            descriptors=self.descriptors,
            driver_area=self.driver_area,
            device_area=self.device_area,
            kick_fd=self.kick_fd,
            call_fd=self.call_fd,
        )


def ring(fd: int) -> None:
    """Raise an eventfd that the backend shares: it may have made it blocking, and filled it. Then it needs no more."""
    room = select.poll()
    room.register(fd, select.POLLOUT)
    if room.poll(0):
        os.eventfd_write(fd, 1)


class MmioTransport:
    """One 512-byte register page at `base`, interrupting on line `gsi`."""

    def __init__(self, name: str, device: virtio.VirtioDevice, base: int, gsi: int, bus: Bus, vm: AccelVm) -> None:
        self.name = name
        self.base = base
        self.gsi = gsi
        self._device = device
        self._queues = [_Queue(size) for size in device.queue_sizes]
        self._interrupt_state = ffi.new("uint32_t[1]")
        self._config_call = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = RLock()
        self._generation = 0
        self._needs_reset = False
        self._told: set[str] = set()
        self._clear()
        self._wire(bus, vm)

    def _wire(self, bus: Bus, vm: AccelVm) -> None:
        check(
            lib.sc_bus_add_virtio_mmio(bus.handle, self.base, self._interrupt_state), f"virtio-mmio page {self.base:#x}"
        )
        bus.add_handler(pio=False, base=self.base, length=PAGE_LENGTH, device=self)
        vm.add_irqfd(self.gsi, self._config_call)
        for index, queue in enumerate(self._queues):
            vm.add_doorbell(self.base + R_QUEUE_NOTIFY, 4, index, queue.kick_fd)
            vm.add_irqfd(self.gsi, queue.call_fd)

    def config_changed(self) -> None:
        """Tell the driver that the configuration space changed. From any thread, without waiting for the device."""
        self._generation = (self._generation + 1) & ALL_ONES
        self._interrupt_config()

    def broken(self, reason: str) -> None:
        """The device is lost: the driver sees NEEDS_RESET, the log says why. From any thread, without waiting."""
        if self._needs_reset:
            return
        self._needs_reset = True
        self._tell(reason)
        if self._status & virtio.DRIVER_OK:
            self._interrupt_config()

    def mended(self) -> None:
        """The device works again, with the rings as the driver left them: there is no need to reset it any more."""
        self._needs_reset = False

    def _tell(self, reason: str) -> None:
        """Log each reason once: a guest that resets a dead device again and again cannot fill the log."""
        if reason not in self._told and len(self._told) < MAX_REASONS:
            self._told.add(reason)
            log.error(f"{self.name}: {reason}; the guest sees the device as needing a reset")

    def read(self, offset: int, size: int) -> int:
        with self._lock:
            try:
                if offset >= CONFIG_SPACE:
                    return int.from_bytes(self._device.read_config(offset - CONFIG_SPACE, size), "little")
                return self._read_register(offset) if size == 4 and offset % 4 == 0 else 0
            except virtio.DeviceBroken as error:
                self.broken(str(error))
                return 0

    def write(self, offset: int, size: int, value: int) -> None:
        with self._lock:
            try:
                if offset >= CONFIG_SPACE:
                    self._device.write_config(offset - CONFIG_SPACE, value.to_bytes(size, "little"))
                elif size == 4 and offset % 4 == 0:
                    self._write_register(offset, value)
            except virtio.DeviceBroken as error:
                self.broken(str(error))

    def reset(self) -> None:
        """As if the driver wrote status 0 (also at machine reset)."""
        with self._lock:
            try:
                self._device.reset()
            finally:
                self._clear()

    def close(self) -> None:
        """Close the eventfds; the VM must not run any more."""
        for queue in self._queues:
            os.close(queue.kick_fd)
            os.close(queue.call_fd)
        os.close(self._config_call)

    def _clear(self) -> None:
        self._status = 0
        self._needs_reset = False
        self._device_features_sel = self._driver_features_sel = 0
        self._driver_features = 0
        self._queue_sel = 0
        self._interrupt_state[0] = 0
        for queue in self._queues:
            queue.clear()

    def _read_register(self, offset: int) -> int:
        if offset == R_MAGIC:
            return MAGIC
        if offset == R_VERSION:
            return VERSION
        if offset == R_DEVICE_ID:
            return self._device.virtio_id
        if offset == R_DEVICE_FEATURES:
            select = self._device_features_sel
            return self._device.device_features() >> 32 * select & ALL_ONES if select < 2 else 0
        if offset == R_QUEUE_NUM_MAX:
            return self._selected.max_size if self._selected else 0
        if offset == R_QUEUE_READY:
            return int(self._selected.ready) if self._selected else 0
        if offset == R_STATUS:
            return self._status | (virtio.NEEDS_RESET if self._needs_reset and self._status & virtio.DRIVER_OK else 0)
        if offset == R_CONFIG_GENERATION:
            return self._generation
        return ALL_ONES if offset in SHARED_MEMORY else 0  # VENDOR is 0, too

    def _write_register(self, offset: int, value: int) -> None:
        if offset == R_STATUS:
            self._write_status(value & 0xFF)
        elif offset == R_DEVICE_FEATURES_SEL:
            self._device_features_sel = value
        elif offset == R_DRIVER_FEATURES_SEL:
            self._driver_features_sel = value
        elif offset == R_DRIVER_FEATURES:
            self._write_driver_features(value)
        elif offset == R_QUEUE_SEL:
            self._queue_sel = value
        elif offset == R_QUEUE_NOTIFY:
            self._notify(value)
        elif self._selected is not None:
            self._write_queue_register(self._selected, offset, value)

    @property
    def _selected(self) -> _Queue | None:
        return self._queues[self._queue_sel] if self._queue_sel < len(self._queues) else None

    def _write_driver_features(self, value: int) -> None:
        if self._status & virtio.FEATURES_OK or self._driver_features_sel > 1:
            return  # settled features do not change
        shift = 32 * self._driver_features_sel
        self._driver_features = self._driver_features & ~(ALL_ONES << shift) | value << shift

    def _write_queue_register(self, queue: _Queue, offset: int, value: int) -> None:
        """Sizes and addresses can be written only while neither the queue is ready nor the device started."""
        if offset == R_QUEUE_READY:
            if not self._status & virtio.DRIVER_OK:
                queue.ready = value == 1
            return
        if queue.ready or self._status & virtio.DRIVER_OK:
            return
        if offset == R_QUEUE_NUM:
            if self._valid_size(queue, value):
                queue.size = value
        elif offset in QUEUE_ADDRESSES:
            name, shift = QUEUE_ADDRESSES[offset]
            setattr(queue, name, getattr(queue, name) & ~(ALL_ONES << shift) | value << shift)

    def _valid_size(self, queue: _Queue, size: int) -> bool:
        packed = self._driver_features >> virtio.F_RING_PACKED & 1
        return 0 < size <= queue.max_size and (bool(packed) or size & (size - 1) == 0)

    def _write_status(self, value: int) -> None:
        if value == 0:
            self.reset()
            return
        value |= self._status  # only a reset takes a bit back (2.1.1): else a running device's queues would thaw
        added = value & ~self._status
        if added & virtio.FEATURES_OK and not self._accept_features():
            value &= ~virtio.FEATURES_OK
        self._status = value & ~virtio.NEEDS_RESET
        self._device.set_status(self._status)
        if added & virtio.DRIVER_OK and self._status & virtio.FEATURES_OK:
            self._device.activate([queue.setup(index) for index, queue in enumerate(self._queues) if queue.ready])

    def _accept_features(self) -> bool:
        """FEATURES_OK stays set only for a subset of the offer that has VERSION_1 (2.2, 3.1.1)."""
        wanted = self._driver_features
        if wanted & ~self._device.device_features() or not wanted >> virtio.F_VERSION_1 & 1:
            log.warn(
                f"{self.name}: the guest's driver chose features {wanted:#x}, which were not offered or lack VERSION_1"
            )
            return False
        self._device.set_driver_features(wanted)
        return True

    def _notify(self, index: int) -> None:
        """Only accelerators without a doorbell for this write get here."""
        if index < len(self._queues):
            ring(self._queues[index].kick_fd)

    def _interrupt_config(self) -> None:
        self._interrupt_state[0] = INTERRUPT_CONFIG
        os.eventfd_write(self._config_call, 1)
