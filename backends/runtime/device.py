"""What a device implements and the vhost-user server drives: the seam between control (Python) and the data path (C).

The server (`backends.runtime.server`) has checked each message before it calls here: payload size, descriptor count,
`index < num_queues`, `1 <= num <= max_queue_size` (a power of two unless packed), ring addresses lie whole inside one
memory region each, sizes of files cover what is to be mapped. A device therefore checks only what it alone knows.
Calls come from one thread, one at a time. Ring work runs on the device's own threads.

Descriptors: every `fd` argument passes to the device at the call, which closes it in the end, also when it raises.
Errors: raise `DeviceError` with one line, leaving the device as it was; the request is answered "failed", the session
goes on. Anything else that is raised ends the session and with it everything the front-end gave.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from backends.runtime.inflight_file import sealed_memfd

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ipc.control import Message, Value


class MemoryRegion(NamedTuple):
    """One piece of guest memory, in bytes. `fd` passes to whoever is given the region."""

    gpa: int
    size: int
    user_address: int
    fd: int
    offset: int


class DeviceError(Exception):
    """A request that the device refuses; the text is one line for the log."""


class Device(ABC):
    """One virtio device behind a vhost-user server.

    `features` includes no vhost-user bits (26, 30): the server adds them. `protocol_features` are the bits beyond what
    the server itself provides (`session_state.SERVER_PROTOCOL_FEATURES`), e.g. INFLIGHT_SHMFD.
    """

    name: str = "device"
    features: int = 0
    protocol_features: int = 0
    num_queues: int = 1
    max_queue_size: int = 1024
    config_change_notifier: Callable[[], None] | None = None
    """Set by the server while a session can carry CONFIG_CHANGE; never waits, may be called from any thread."""

    @abstractmethod
    def set_features(self, acked: int) -> None:
        """Driver's features, a subset of `features` plus VHOST_F_LOG_ALL (26) and PROTOCOL_FEATURES (30).

        Comes again with bit 26 toggled while rings run: logging starts or stops at once.
        """

    def set_protocol_features(self, acked: int) -> None:  # noqa: B027 - most devices need not know
        """Protocol features the front-end acknowledged."""

    @abstractmethod
    def add_region(self, gpa: int, size: int, user_address: int, fd: int, offset: int) -> None:
        """Map `size` bytes of `fd` from `offset` (whole pages of 4 KiB); the server saw to it that nothing overlaps.

        On hugetlbfs a mapping begins at a multiple of the file's st_blksize, so map from below `offset` there.
        """

    @abstractmethod
    def remove_region(self, gpa: int, size: int, user_address: int) -> None:
        """Unmap a region that exists; no ring that still has an address in it is running."""

    @abstractmethod
    def replace_regions(self, regions: list[MemoryRegion]) -> None:
        """SET_MEM_TABLE: exactly these regions from now on. Rings are paused or re-translated by the device."""

    @abstractmethod
    def set_log(self, fd: int, offset: int, size: int) -> None:
        """Dirty log: one bit per 4 KiB of guest-physical address, `size` bytes at `offset`, covering all regions.

        Replaces an earlier log. Used only while VHOST_F_LOG_ALL is acknowledged.
        """

    @abstractmethod
    def clear_log(self) -> None:
        """Forget the dirty log, if any."""

    @abstractmethod
    def vring_num(self, index: int, num: int) -> None:
        """Ring size in descriptors. Never while the ring runs."""

    @abstractmethod
    def vring_addr(self, index: int, flags: int, desc: int, used: int, avail: int, log: int) -> None:
        """User addresses of the three parts (packed: descriptors, device area, driver area), aligned.

        `flags` bit 0 (VHOST_VRING_F_LOG): mark used-ring writes in the log at guest address `log`.
        Comes again while the ring runs, with the same addresses and another `flags`.
        """

    @abstractmethod
    def vring_base(self, index: int, base: int) -> None:
        """Where to go on: split: avail index (16 bit); packed: avail | wrap << 15 | (used | wrap << 15) << 16."""

    @abstractmethod
    def vring_kick(self, index: int, fd: int) -> None:
        """Doorbell eventfd, and the start of the ring: it may be processed from the first readiness of `fd` on.

        fd -1: poll the ring instead. A second call while running replaces the descriptor without losing a kick.
        """

    @abstractmethod
    def vring_call(self, index: int, fd: int) -> None:
        """Interrupt eventfd; -1: none (the driver polls). May be replaced while running."""

    @abstractmethod
    def vring_err(self, index: int, fd: int) -> None:
        """Eventfd to signal when the ring turns out broken; -1: none."""

    @abstractmethod
    def vring_enable(self, index: int, enabled: bool) -> None:
        """A disabled ring is processed without side effects; for blk: not at all until enabled."""

    @abstractmethod
    def vring_stop(self, index: int) -> int:
        """GET_VRING_BASE: drain what is in flight, stop, forget kick (call stays), return the base as in `vring_base`.

        For a ring that never ran: the base last set, 0 at first.
        """

    @abstractmethod
    def get_config(self, offset: int, size: int) -> bytes:
        """`size` bytes of configuration space at `offset`; bytes past its end are zero."""

    def set_config(self, offset: int, data: bytes, flags: int) -> None:
        """A driver's write (flags 0) or state arriving by migration (flags 1)."""
        raise DeviceError(f"{self.name} has no writable configuration field")

    def inflight_layout(self, queues: int, queue_size: int) -> int:
        """Bytes the inflight region needs for that many queues of that size; 0: not supported."""
        return 0

    def new_inflight_file(self, size: int) -> int:
        """A file with `size` zeros at its start for a region; earlier regions are over. The caller closes it.

        A device that lives in a sandbox has made its own before it was sealed (`InflightFile`).
        """
        return sealed_memfd("inflight", size)

    def set_inflight(self, fd: int, size: int, offset: int, queues: int, queue_size: int) -> None:
        """Use this inflight region (checked: `size` >= `inflight_layout`, the file is long enough). Before any kick."""
        os.close(fd)
        raise DeviceError(f"{self.name} keeps no inflight region")

    def set_status(self, status: int) -> None:  # noqa: B027 - most devices need not know
        """The driver's device status byte (VIRTIO 2.1), when the STATUS protocol feature is acknowledged."""

    def command(self, name: str, arguments: Mapping[str, Value]) -> Message:
        """A command of the control bus (`ipc/control.py`); returns what the answer is to carry."""
        raise DeviceError(f"there is no command {name[:80]!r}")

    @abstractmethod
    def reset(self) -> None:
        """RESET_DEVICE: stop all rings, forget ring state and driver features; keep memory regions and the log."""

    @abstractmethod
    def end_session(self) -> None:
        """The front-end is gone: stop all rings (drain), drop rings, regions, log, inflight, every descriptor it gave.

        The device itself stays usable for the next front-end.
        """

    @abstractmethod
    def close(self) -> None:
        """Free everything; nothing is called afterwards."""
