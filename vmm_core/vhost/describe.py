"""What a device and its backend have agreed on, and where their rings stand, for people (`x-query-backends`)."""

from __future__ import annotations

import os

from ipc import vhost_user as wire
from vmm_core.vhost import rings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm_core.vhost.ringset import RingSet
    from vmm_core.vhost.user import Session
    from vmm_core.virtio.device import QueueSetup

    Facts = dict[str, object]

F_RING_EVENT_IDX = 29
PACKED_USED = slice(16, 18)  # of the head of a packed ring's inflight region (`backends/runtime/inflight.h`)
PACKED_WRAP = 20


def describe(session: Session | None, ring_set: RingSet, features: int | None) -> Facts:
    """Negotiated features and the queues in use. Looks at shared memory only: the backend is not asked.

    `features` are the driver's, None before it has chosen any.
    """
    facts: Facts = {}
    if features is not None:
        facts["features"] = features
    if session is not None:
        names = enumerate(wire.PROTOCOL_FEATURE_NAMES)
        facts["backend-features"] = session.features
        facts["protocol-features"] = [name for bit, name in names if session.has(bit)]
    facts["queues"] = [_queue(ring_set, queue, features or 0) for queue in list(ring_set.queues)]
    return facts


def _queue(ring_set: RingSet, queue: QueueSetup, features: int) -> Facts:
    packed = bool(features >> rings.F_RING_PACKED & 1)
    facts: Facts = {
        "index": queue.index,
        "size": queue.size,
        "type": "packed" if packed else "split",
        "event-index": bool(features >> F_RING_EVENT_IDX & 1),
    }
    if not packed:
        facts["last-avail"] = rings.available_index(ring_set.memory, queue)
        facts["last-used"] = rings.used_index(ring_set.memory, queue)
        return facts
    head = _inflight_head(ring_set.inflight, queue.index)
    if head:  # only the two ends know a packed ring's position, but one of them writes it down
        facts["last-used"] = int.from_bytes(head[PACKED_USED], "little")
        facts["last-used-wrap"] = head[PACKED_WRAP]
    return facts


def _inflight_head(region: rings.Inflight | None, index: int) -> bytes:
    """The head of a packed ring's part; empty when no backend has used it yet."""
    if region is None or index >= region.queues:
        return b""
    try:
        head = os.pread(region.fd, rings.PACKED_ENTRY, region.offset + index * region.stride(rings.PACKED_ENTRY))
    except OSError:  # closed by a reset of the device at this moment
        return b""
    return head if len(head) == rings.PACKED_ENTRY and any(head[8:10]) else b""
