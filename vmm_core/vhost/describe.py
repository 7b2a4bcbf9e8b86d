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
ENTRY_SLOTS = slice(6, 8)  # of an entry of a packed ring's inflight region (`backends/runtime/inflight.h`)


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
    part = _inflight_part(ring_set.inflight, queue.index)
    if part:  # only the two ends know a packed ring's position, but one of them writes it down
        facts.update(_packed_position(part, queue.size))
    return facts


def _packed_position(part: bytes, size: int) -> Facts:
    """Where the next used descriptor goes; what is in flight lies between that and the next available one."""
    used, wrap = int.from_bytes(part[rings.PACKED_USED], "little"), part[rings.PACKED_WRAP] & 1
    entries = [part[at : at + rings.PACKED_ENTRY] for at in range(rings.PACKED_ENTRY, len(part), rings.PACKED_ENTRY)]
    available = used + sum(int.from_bytes(entry[ENTRY_SLOTS], "little") for entry in entries[:size] if entry[0] == 1)
    return {
        "last-avail": available % size,
        "last-avail-wrap": wrap ^ (available // size & 1),
        "last-used": used,
        "last-used-wrap": wrap,
    }


def _inflight_part(region: rings.Inflight | None, index: int) -> bytes:
    try:
        return region.packed_part(index, region.stride(rings.PACKED_ENTRY)) if region is not None else b""
    except OSError:  # closed by a reset of the device at this moment
        return b""
