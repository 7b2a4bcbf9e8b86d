"""What `stratovirt-top` shows: one row for each process, rates from two readings of it."""

from __future__ import annotations

import msgspec

from vmm_core.metrics.readings import Backend, Process, Queue, Reading

CORE, BACKEND = "core", "backend"
RUNNING, SILENT = "running", "no answer"


class Row(msgspec.Struct, rename="kebab"):
    """One process. Rates are per second, None at the first reading; latencies in seconds, upper bounds of buckets.

    `kind` tells the core from a device that is called so.
    """

    vm: str
    kind: str
    process: str
    pid: int
    state: str
    restarts: int
    memory: int | None
    guest_memory: int | None = None
    cpu: float | None = None
    requests: float | None = None
    read_bytes: float | None = None
    written_bytes: float | None = None
    errors: float | None = None
    kicks: float | None = None
    calls: float | None = None
    in_flight: int = 0
    p50: float | None = None
    p99: float | None = None


def rows(now: Reading, before: Reading | None = None) -> list[Row]:
    """The core's row, then one for each backend."""
    seconds = now.taken - before.taken if before is not None else 0.0
    memory = now.core.process.own_memory
    core = Row(now.vm, CORE, CORE, now.core.pid, RUNNING, 0, memory, now.core.guest_memory)
    if before is not None and before.core.pid == now.core.pid:
        core.cpu = _cpu(now.core.process, before.core.process, seconds)
    earlier = {backend.id: backend for backend in before.backends} if before is not None else {}
    return [core, *(_backend_row(now.vm, each, earlier.get(each.id), seconds) for each in now.backends)]


def silent(vm: str) -> Row:
    """The row of a VM that does not answer."""
    return Row(vm, CORE, CORE, 0, SILENT, 0, None)


def _backend_row(vm: str, now: Backend, before: Backend | None, seconds: float) -> Row:
    row = Row(vm, BACKEND, now.id, now.pid, now.state, now.restarts, now.process.own_memory)
    total = _sum(now.queues)
    row.in_flight = total.in_flight
    if before is None or seconds <= 0:
        return row
    earlier = _sum(before.queues)
    for name in ("requests", "read_bytes", "written_bytes", "errors", "kicks", "calls"):
        setattr(row, name, max(0, getattr(total, name) - getattr(earlier, name)) / seconds)
    latency = [max(0, new - old) for new, old in zip(total.latency, earlier.latency, strict=False)]
    row.p50, row.p99 = percentile(latency, 0.5), percentile(latency, 0.99)
    if before.pid == now.pid and now.pid:
        row.cpu = _cpu(now.process, before.process, seconds)
    return row


def percentile(latency: list[int], share: float) -> float | None:
    """Seconds within which that share of the requests was answered, rounded up to a power of two of microseconds."""
    wanted = share * sum(latency)
    if not wanted:
        return None
    so_far = 0
    for bucket, count in enumerate(latency):
        so_far += count
        if so_far >= wanted:
            return float(2 << bucket) / 1e6
    return None


def _cpu(now: Process, before: Process, seconds: float) -> float | None:
    used = now.cpu_user + now.cpu_system - before.cpu_user - before.cpu_system
    return max(0.0, used) / seconds if seconds > 0 else None


def _sum(queues: list[Queue]) -> Queue:
    total = Queue()
    for queue in queues:
        for name in ("kicks", "calls", "requests", "read_bytes", "written_bytes", "errors", "in_flight"):
            setattr(total, name, getattr(total, name) + getattr(queue, name))
        total.latency = [one + other for one, other in zip(total.latency, queue.latency, strict=False)]
    return total
