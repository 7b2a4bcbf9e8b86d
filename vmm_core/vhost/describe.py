"""What a device and its backend have agreed on, and where their rings stand, for people (`x-query-backends`)."""

from __future__ import annotations

from ipc import vhost_user as wire
from vmm_core.vhost import rings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm_core.vhost.ringset import RingSet
    from vmm_core.vhost.user import Session
    from vmm_core.virtio.device import QueueSetup

    Facts = dict[str, object]

F_RING_EVENT_IDX = 29


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
    position = _position(ring_set.inflight, queue.index)
    if position is not None:
        facts["last-used"], facts["last-used-wrap"] = position
    return facts


def _position(region: rings.Inflight | None, index: int) -> tuple[int, int] | None:
    try:
        return region.position(index) if region is not None else None
    except OSError:  # closed by a reset of the device at this moment
        return None
