"""Readings as metric families (docs/metrics.md lists them; a test compares)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric

from vmm_core.metrics.readings import Backend, Process, Queue, Reading

PREFIX = "stratovirt_"
CORE, DEVICE = "core", " (device)"
TOP_BUCKET = 24  # the last bound is 2**24 microseconds, 16.8 s; what took longer is in +Inf alone
BOUNDS = [f"{(1 << exponent) / 1e6:g}" for exponent in range(1, TOP_BUCKET + 1)]

Value = float | None


class Row(NamedTuple):
    """A family of one label besides VM and process: what it is called, and its values by that label."""

    name: str
    help: str
    kind: type[CounterMetricFamily] | type[GaugeMetricFamily]
    label: str
    values: Callable[[Process], dict[str, Value]]


PROCESS = (
    Row(
        "process_cpu_seconds", "CPU time.", CounterMetricFamily, "mode",
        lambda p: {"user": p.cpu_user, "system": p.cpu_system},
    ),
    Row(
        "process_resident_bytes", "Resident memory; guest memory is a figure of its own.",
        GaugeMetricFamily, "kind",
        lambda p: {"anonymous": p.rss_anonymous, "file": p.rss_file},
    ),
    Row(
        "process_proportional_bytes", "Resident memory, divided among those that share it (PSS).",
        GaugeMetricFamily, "kind",
        lambda p: {"anonymous": p.pss_anonymous, "file": p.pss_file},
    ),
    Row("process_unique_bytes", "Memory that would come free with the process (USS).", GaugeMetricFamily, "",
        lambda p: {"": p.uss}),
    Row(
        "process_page_faults", "Page faults.", CounterMetricFamily, "kind",
        lambda p: {"minor": p.minor_faults, "major": p.major_faults},
    ),
    Row(
        "process_context_switches", "Context switches of all threads.", CounterMetricFamily, "kind",
        lambda p: {"voluntary": p.voluntary_switches, "involuntary": p.involuntary_switches},
    ),
    Row(
        "process_io_bytes", "Bytes that reached storage.", CounterMetricFamily, "direction",
        lambda p: {"read": p.read_bytes, "write": p.written_bytes},
    ),
    Row(
        "process_io_operations", "System calls that read or write.", CounterMetricFamily, "direction",
        lambda p: {"read": p.read_calls, "write": p.write_calls},
    ),
    Row("process_threads", "Threads.", GaugeMetricFamily, "", lambda p: {"": p.threads}),
    Row("process_open_descriptors", "Open descriptors.", GaugeMetricFamily, "", lambda p: {"": p.descriptors}),
    Row("process_age_seconds", "Time since the process was started.", GaugeMetricFamily, "", lambda p: {"": p.age}),
)  # fmt: skip

QUEUE: tuple[tuple[str, str, Callable[[Queue], int]], ...] = (
    ("queue_kicks", "Doorbells that the driver rang and the backend heard.", lambda q: q.kicks),
    ("queue_calls", "Interrupts sent to the driver.", lambda q: q.calls),
    ("queue_calls_suppressed", "Interrupts that the driver did not want.", lambda q: q.calls_suppressed),
    ("queue_requests", "Requests taken from the queue.", lambda q: q.requests),
    ("queue_read_bytes", "Bytes read for the guest.", lambda q: q.read_bytes),
    ("queue_written_bytes", "Bytes written for the guest.", lambda q: q.written_bytes),
    ("queue_errors", "Requests answered with an error.", lambda q: q.errors),
)


def families(readings: Iterable[Reading], down: Iterable[str] = ()) -> Iterator[Metric]:
    """Every metric of every VM; `down` are those that did not answer."""
    known = list(readings)
    up = GaugeMetricFamily(f"{PREFIX}vm_up", "Whether the VM answered.", labels=["vm"])
    memory = GaugeMetricFamily(
        f"{PREFIX}guest_memory_bytes", "Guest memory that has pages, whoever touched them.", labels=["vm"]
    )
    for reading in known:
        up.add_metric([reading.vm], 1)
        memory.add_metric([reading.vm], reading.core.guest_memory)
    for name in down:
        up.add_metric([name], 0)
    yield from (up, memory)
    yield from _processes(known)
    yield from _backends(known)
    yield from _queues(known)


def _processes(readings: list[Reading]) -> Iterator[Metric]:
    for row in PROCESS:
        labels = ["vm", "process", *([row.label] if row.label else [])]
        family = row.kind(PREFIX + row.name, row.help, labels=labels)
        for reading in readings:
            named = [
                (CORE, reading.core.process),
                *((_beside_core(each.id), each.process) for each in reading.backends if each.pid),
            ]
            for name, process in named:
                for label, value in row.values(process).items():
                    if value is not None:
                        family.add_metric([reading.vm, name, *([label] if row.label else [])], value)
        yield family


def _beside_core(name: str) -> str:
    """A device may be called `core`: the process label tells the two apart."""
    return f"{name}{DEVICE}" if name.removesuffix(DEVICE) == CORE else name


def _backends(readings: list[Reading]) -> Iterator[Metric]:
    labels = ["vm", "backend"]
    up = GaugeMetricFamily(f"{PREFIX}backend_up", "Whether the device is served.", labels=labels)
    restarts = CounterMetricFamily(f"{PREFIX}backend_restarts", "Replacements of the process.", labels=labels)
    kills = CounterMetricFamily(f"{PREFIX}backend_memory_kills", "Ends for using more than memory-max.", labels=labels)
    info = InfoMetricFamily(f"{PREFIX}backend", "The backend's state.", labels=labels)
    limits = GaugeMetricFamily(
        f"{PREFIX}backend_limit_in_force",
        "Whether a limit that was asked for holds.",
        labels=[*labels, "limit", "value"],
    )
    pressure = CounterMetricFamily(
        f"{PREFIX}backend_pressure_seconds", "Time in which it waited for a resource (PSI).",
        labels=[*labels, "resource", "share"],
    )  # fmt: skip
    for vm, backend in _each(readings):
        where = [vm, backend.id]
        up.add_metric(where, backend.state == "running")
        restarts.add_metric(where, backend.restarts)
        kills.add_metric(where, backend.memory_kills)
        info.add_metric(where, {"state": backend.state, "pid": str(backend.pid)})
        for limit in backend.limits:
            limits.add_metric([*where, limit.limit, limit.value], limit.in_force)
        for resource, shares in backend.pressure.items():
            for share, values in shares.items():
                pressure.add_metric([*where, resource, share], values.get("total", 0.0) / 1e6)
    yield from (up, restarts, kills, info, limits, pressure)


def _queues(readings: list[Reading]) -> Iterator[Metric]:
    labels = ["vm", "backend", "queue"]
    for name, help, value in QUEUE:
        family = CounterMetricFamily(PREFIX + name, help, labels=labels)
        for where, queue in _each_queue(readings):
            family.add_metric(where, value(queue))
        yield family
    waiting = GaugeMetricFamily(f"{PREFIX}queue_in_flight", "Requests being worked on.", labels=labels)
    latency = HistogramMetricFamily(
        f"{PREFIX}queue_latency_seconds", "From taking a request to answering it.", labels=labels
    )
    for where, queue in _each_queue(readings):
        waiting.add_metric(where, queue.in_flight)
        latency.add_metric(where, _buckets(queue), queue.latency_ns / 1e9)
    yield from (waiting, latency)


def _buckets(queue: Queue) -> list[tuple[str, float]]:
    buckets, sum_so_far = [], 0
    for bound, count in zip(BOUNDS, queue.latency, strict=False):
        sum_so_far += count
        buckets.append((bound, float(sum_so_far)))
    return [*buckets, ("+Inf", float(sum(queue.latency)))]


def _each(readings: list[Reading]) -> Iterator[tuple[str, Backend]]:
    return ((reading.vm, backend) for reading in readings for backend in reading.backends)


def _each_queue(readings: list[Reading]) -> Iterator[tuple[list[str], Queue]]:
    for vm, backend in _each(readings):
        for index, queue in enumerate(backend.queues):
            yield [vm, backend.id, str(index)], queue
