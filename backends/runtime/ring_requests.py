"""The requests about rings: size, addresses, position, doorbell, interrupt, start and stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backends.runtime.device import DeviceError
from backends.runtime.ring_state import RingAddresses
from backends.runtime.session_state import SessionState
from ipc import vhost_user as wire

if TYPE_CHECKING:
    from ipc.connection import Frame


class RingRequests(SessionState):
    """Handlers are named as the messages they serve; the index was checked before."""

    def _set_vring_num(self, values: Any, _frame: Frame) -> None:
        index, num = values
        self.rings[index].check_num(num, self.device.max_queue_size, self.packed)
        self.device.vring_num(index, num)
        self.rings[index].num = num

    def _set_vring_addr(self, values: Any, _frame: Frame) -> None:
        index, flags, descriptors, used, available, log = values
        ring, addresses = self.rings[index], RingAddresses(descriptors, used, available)
        if flags & ~wire.VRING_F_LOG:
            raise DeviceError(f"SET_VRING_ADDR: unknown flags {flags:#x}")
        if not ring.started:
            ring.addresses = None  # what is refused below must not leave the ring startable
        ring.check_addresses(addresses, self.memory, self.packed)
        self.device.vring_addr(index, flags, descriptors, used, available, log)
        ring.addresses = addresses

    def _set_vring_base(self, values: Any, _frame: Frame) -> None:
        index, base = values
        self.rings[index].check_stopped("base")
        if not self.packed and base > 0xFFFF:
            raise DeviceError(f"ring base {base:#x} is more than 16 bits")
        self.device.vring_base(index, base)

    def _get_vring_base(self, values: Any, _frame: Frame) -> tuple[tuple[int, int], list[int]]:
        index, _ = values
        base = self.device.vring_stop(index)
        self.rings[index].started = False
        return (index, base), []

    def _set_vring_enable(self, values: Any, _frame: Frame) -> None:
        index, enabled = values
        if enabled > 1:
            raise DeviceError(f"SET_VRING_ENABLE: {enabled} is neither 0 nor 1")
        self.device.vring_enable(index, bool(enabled))

    def _set_vring_kick(self, values: Any, frame: Frame) -> None:
        index = values[0] & wire.VRING_INDEX_MASK
        self.rings[index].check_startable(self.memory, self.packed)
        fd = self._eventfd(values[0], frame)
        if not self.features >> wire.F_PROTOCOL_FEATURES & 1:
            self.device.vring_enable(index, True)  # without that feature a ring starts enabled
        self.device.vring_kick(index, fd)
        self.rings[index].started = True

    def _set_vring_call(self, values: Any, frame: Frame) -> None:
        self.device.vring_call(values[0] & wire.VRING_INDEX_MASK, self._eventfd(values[0], frame))

    def _set_vring_err(self, values: Any, frame: Frame) -> None:
        self.device.vring_err(values[0] & wire.VRING_INDEX_MASK, self._eventfd(values[0], frame))

    def _eventfd(self, value: int, frame: Frame) -> int:
        """Take the descriptor, which is there exactly if the "no descriptor" bit is not; -1 for none."""
        if bool(frame.fds) == bool(value & wire.VRING_NO_FD):
            raise DeviceError(f"ring descriptor: flag {value & wire.VRING_NO_FD:#x} with {len(frame.fds)} descriptors")
        return frame.take_fds()[0] if frame.fds else -1
