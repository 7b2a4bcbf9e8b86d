"""The counters of a backend's queues: one shared page or three, written by the backend's threads, read by the core.

A header, then one block for each queue, in the machine's byte order: what `struct sc_vq_stats` is in C. The backend is
not trusted: the reader copies a block once and takes every number as a number, nothing more.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap

    Memory = bytes | memoryview | mmap.mmap

MAGIC = 0x53514353  # "SCQS"
VERSION = 1
HEADER = struct.Struct("=IHHI52x")  # magic, version, bytes of a block, blocks
COUNTERS = (
    "kicks", "calls", "calls_suppressed", "requests", "read_bytes", "written_bytes", "errors", "in_flight", "latency_ns"
)  # fmt: skip
BUCKETS = 31  # bucket i counts requests that took less than 2**(i+1) microseconds and were in no earlier one
BLOCK = struct.Struct(f"={len(COUNTERS)}Q{BUCKETS}Q")
MAX_QUEUES = 64
LARGEST = (1 << 63) - 1  # what QMP's integers hold


def size(queues: int) -> int:
    """Bytes of the shared memory, whole pages."""
    return (HEADER.size + queues * BLOCK.size + 4095) & ~4095


def header(queues: int) -> bytes:
    """What the reader, who makes the memory, puts at its start."""
    return HEADER.pack(MAGIC, VERSION, BLOCK.size, queues)


def blocks(data: Memory) -> int:
    """How many blocks there are; 0 when this is not a layout that we know, or is cut off."""
    view = memoryview(data)
    if len(view) < HEADER.size:
        return 0
    magic, version, block, queues = HEADER.unpack_from(view)
    known = magic == MAGIC and version == VERSION and block == BLOCK.size and 0 < queues <= MAX_QUEUES
    return queues if known and size(queues) <= len(view) else 0


def read(data: Memory, queue: int, queue_size: int) -> dict[str, int | list[int]]:
    """One queue's counters; in flight are at most `queue_size`, whatever is written there."""
    values = [min(value, LARGEST) for value in BLOCK.unpack_from(data, HEADER.size + queue * BLOCK.size)]
    named: dict[str, int | list[int]] = dict(zip(COUNTERS, values[: len(COUNTERS)], strict=True))
    named["in_flight"] = min(values[COUNTERS.index("in_flight")], queue_size)
    named["latency"] = values[len(COUNTERS) :]
    return named
