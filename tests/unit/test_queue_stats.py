"""Counters in shared memory: a backend can lie with them, and do nothing else."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator

import pytest

from ipc import queue_stats
from vmm_core.supervisor.queue_stats import QueueStats


@pytest.fixture
def stats() -> Iterator[QueueStats]:
    stats = QueueStats("disk0", (256, 128))
    yield stats
    stats.close()


def backend_of(stats: QueueStats) -> mmap.mmap:
    """The backend's mapping."""
    return mmap.mmap(os.dup(stats.fd), 0)


def test_what_the_backend_counts_is_what_is_read(stats: QueueStats) -> None:
    page = backend_of(stats)
    queue_stats.BLOCK.pack_into(page, queue_stats.HEADER.size + queue_stats.BLOCK.size, *range(40))
    first, second = stats.read()
    assert first["requests"] == 0
    assert (second["kicks"], second["in_flight"], second["latency_ns"]) == (0, 7, 8)
    assert second["latency"] == list(range(9, 40))


def test_lies_stay_within_bounds(stats: QueueStats) -> None:
    page = backend_of(stats)
    page[queue_stats.HEADER.size :] = b"\xff" * (len(page) - queue_stats.HEADER.size)
    first, second = stats.read()
    assert (first["in_flight"], second["in_flight"]) == (256, 128)
    assert first["requests"] == queue_stats.LARGEST


@pytest.mark.parametrize("header", [bytes(64), b"\xff" * 64, queue_stats.header(1), queue_stats.header(64)])
def test_a_damaged_header_hides_the_counters_and_nothing_else(stats: QueueStats, header: bytes) -> None:
    backend_of(stats)[:64] = header
    assert stats.read() == []


def test_the_memory_cannot_be_pulled_from_under_the_core(stats: QueueStats) -> None:
    for size in (0, 1 << 20):
        with pytest.raises(OSError):
            os.ftruncate(stats.fd, size)


def test_the_layout_is_the_one_of_the_c_code() -> None:
    from backends.blk._blk import ffi

    assert ffi.sizeof("struct sc_vq_stats") == queue_stats.BLOCK.size
    assert ffi.offsetof("struct sc_vq_stats", "in_flight") == 8 * queue_stats.COUNTERS.index("in_flight")
    assert ffi.offsetof("struct sc_vq_stats", "latency") == 8 * len(queue_stats.COUNTERS)
    assert queue_stats.HEADER.size == 64
    assert struct.calcsize("=Q") == 8
