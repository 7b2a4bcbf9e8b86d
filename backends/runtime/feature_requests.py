"""The requests about features, ownership, device status, configuration space and the channel for our own requests."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

from backends.runtime.config_notifier import ConfigNotifier
from backends.runtime.device import DeviceError
from backends.runtime.ring_state import RingState
from backends.runtime.session_state import SessionState
from ipc import vhost_user as wire

if TYPE_CHECKING:
    from ipc.connection import Frame


class FeatureRequests(SessionState):
    """Handlers are named as the messages they serve; each gets the payload's values and the message."""

    notifier: ConfigNotifier | None = None

    def _get_features(self, _values: Any, _frame: Frame) -> int:
        return self.features_offered

    def _set_features(self, values: Any, _frame: Frame) -> None:
        (features,) = values
        if features & ~self.features_offered:
            raise DeviceError(f"features {features & ~self.features_offered:#x} were not offered")
        changed = (features ^ self.features) & ~wire.bits(wire.F_LOG_ALL)
        if changed:
            self.check_stopped("the features")
        self.device.set_features(features)
        self.features = features

    def _get_protocol_features(self, _values: Any, _frame: Frame) -> int:
        return self.protocol_offered

    def _set_protocol_features(self, values: Any, _frame: Frame) -> None:
        (features,) = values
        if features & ~self.protocol_offered:
            raise DeviceError(f"protocol features {features & ~self.protocol_offered:#x} were not offered")
        self.device.set_protocol_features(features)
        self.protocol = features

    def _set_owner(self, _values: Any, _frame: Frame) -> None:
        """One connection, one owner: nothing to note."""

    def _reset_owner(self, _values: Any, _frame: Frame) -> None:
        """Deprecated; the harmless reading: disable all rings."""
        for index in range(len(self.rings)):
            self.device.vring_enable(index, False)

    def _get_queue_num(self, _values: Any, _frame: Frame) -> int:
        return self.device.num_queues

    def _set_status(self, values: Any, _frame: Frame) -> None:
        (status,) = values
        if status > 0xFF:
            raise DeviceError(f"device status {status:#x} is more than a byte")
        self.device.set_status(status)
        self.status = status

    def _get_status(self, _values: Any, _frame: Frame) -> int:
        return self.status

    def _reset_device(self, _values: Any, _frame: Frame) -> None:
        self.device.reset()
        self.rings = [RingState() for _ in self.rings]
        self.features = self.status = 0

    def _get_config(self, values: Any, _frame: Frame) -> tuple[tuple[int, int, int, bytes], list[int]]:
        offset, size, flags, _ = values
        if not size or offset + size > wire.MAX_CONFIG:
            raise DeviceError(f"GET_CONFIG of {size} bytes at {offset}")
        return (offset, size, flags, self.device.get_config(offset, size)), []

    def _set_config(self, values: Any, _frame: Frame) -> None:
        offset, size, flags, data = values
        if not size or offset + size > wire.MAX_CONFIG or flags not in (wire.CONFIG_WRITABLE, wire.CONFIG_MIGRATION):
            raise DeviceError(f"SET_CONFIG of {size} bytes at {offset}, flags {flags:#x}")
        self.device.set_config(offset, data, flags)

    def _set_backend_req_fd(self, _values: Any, frame: Frame) -> None:
        if not stat.S_ISSOCK(os.fstat(frame.fds[0]).st_mode):
            raise DeviceError("SET_BACKEND_REQ_FD: the descriptor is no socket")
        if self.notifier is not None:
            self.notifier.close()
        (fd,) = frame.take_fds()
        self.notifier = ConfigNotifier(fd)
        self.device.config_change_notifier = self.notifier.notify
