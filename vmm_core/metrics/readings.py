"""One reading of one VM: `x-query-backend-stats` over its monitor, checked against a schema.

A VM is not trusted: it answers in bounded time with bounded size, and what it says is data of known types.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

import msgspec

from ipc.queue_stats import BUCKETS
from vmm_core.errors import VmmError
from vmm_core.rundir import FRESH, SOCKET, base_directory

TIME_LIMIT = 2.0  # seconds for one VM to answer
SIZE_LIMIT = 4 << 20  # bytes of an answer
REQUEST = b'{"execute":"x-query-backend-stats"}\n'


class Process(msgspec.Struct, rename="kebab"):
    """What one process uses; None where the kernel would not say. Bytes, seconds, counts."""

    cpu_user: float = 0.0
    cpu_system: float = 0.0
    minor_faults: int = 0
    major_faults: int = 0
    threads: int = 0
    age: float = 0.0
    rss: int = 0
    rss_anonymous: int = 0
    rss_file: int = 0
    rss_shared: int = 0
    voluntary_switches: int | None = None
    involuntary_switches: int | None = None
    read_chars: int | None = None
    written_chars: int | None = None
    read_calls: int | None = None
    write_calls: int | None = None
    read_bytes: int | None = None
    written_bytes: int | None = None
    descriptors: int | None = None
    pss: int | None = None
    pss_anonymous: int | None = None
    pss_file: int | None = None
    pss_shared: int | None = None
    uss: int | None = None

    @property
    def own_memory(self) -> int:
        """Without guest memory, which is the core's: PSS if we know it, else what is resident."""
        if self.pss_anonymous is not None and self.pss_file is not None:
            return self.pss_anonymous + self.pss_file
        return self.rss_anonymous + self.rss_file


class Queue(msgspec.Struct, rename="kebab"):
    """Counters since the device was first served; `latency` by powers of two of microseconds."""

    kicks: int = 0
    calls: int = 0
    calls_suppressed: int = 0
    requests: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    errors: int = 0
    in_flight: int = 0
    latency_ns: int = 0
    latency: list[int] = msgspec.field(default_factory=lambda: [0] * BUCKETS)


class Limit(msgspec.Struct, rename="kebab"):
    limit: str
    value: str
    in_force: bool
    by: str


class Backend(msgspec.Struct, rename="kebab"):
    """One device's backend; no `process` while there is none, or when it is not the VM's."""

    id: str
    pid: int = 0
    state: str = ""
    restarts: int = 0
    process: Process = msgspec.field(default_factory=Process)
    queues: list[Queue] = msgspec.field(default_factory=list)
    limits: list[Limit] = msgspec.field(default_factory=list)
    memory_kills: int = 0
    pressure: dict[str, dict[str, dict[str, float]]] = msgspec.field(default_factory=dict)


class Core(msgspec.Struct, rename="kebab"):
    pid: int = 0
    process: Process = msgspec.field(default_factory=Process)
    guest_memory: int = 0


class Reading(msgspec.Struct, rename="kebab"):
    """A VM's account. `vm` and `taken` (monotonic seconds) are ours, the rest is the VM's."""

    core: Core
    backends: list[Backend]
    name: str = ""
    vm: str = ""
    taken: float = 0.0


class Answer(msgspec.Struct):
    result: Reading = msgspec.field(name="return")


class ReadingError(VmmError):
    """A VM that did not answer as it should; one line."""


def monitors(base: str = "") -> dict[str, str]:
    """The monitor of each VM in the run directory, by the VM's name there. VmmError when it cannot be read."""
    place = base or base_directory()
    try:
        names = sorted(os.listdir(place)) if place else []
    except FileNotFoundError:
        names = []
    except OSError as error:
        raise VmmError(f"{place}: {error.strerror}") from error
    found = {name: str(Path(place, name, SOCKET)) for name in names if not name.startswith(FRESH)}
    return {name: path for name, path in found.items() if os.path.exists(path)}


def read(vm: str, path: str) -> Reading:
    """Ask one VM; the connection is ours for milliseconds, as a monitor serves one client at a time. ReadingError."""
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.settimeout(TIME_LIMIT)
            sock.connect(path)
            sock.sendall(REQUEST)
            reading = _answer(sock)
        except OSError as error:
            raise ReadingError(f"{vm}: {path}: {error.strerror or error}") from error
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ReadingError(f"{vm}: not an account of a VM: {error}") from error
    reading.vm, reading.taken = vm, time.monotonic()
    return reading


def read_all(places: dict[str, str]) -> tuple[list[Reading], list[ReadingError]]:
    """Ask each VM in turn."""
    readings, failures = [], []
    for vm, path in places.items():
        try:
            readings.append(read(vm, path))
        except ReadingError as error:
            failures.append(error)
    return readings, failures


def _answer(sock: socket.socket) -> Reading:
    """The answer, which comes after a greeting and perhaps events."""
    deadline = time.monotonic() + TIME_LIMIT
    pending = b""
    while len(pending) < SIZE_LIMIT:
        sock.settimeout(max(0.001, deadline - time.monotonic()))
        data = sock.recv(1 << 16)
        if not data:
            raise OSError("the VM hung up")
        *lines, pending = (pending + data).split(b"\r\n")
        for line in lines:
            message: dict[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
            if "error" in message:
                raise OSError(f"the VM refuses: {str(message['error'])[:200]}")
            if "return" in message:
                return msgspec.json.decode(line, type=Answer).result
    raise OSError(f"an answer of more than {SIZE_LIMIT} bytes")
