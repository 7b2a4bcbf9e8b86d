"""One reading of one VM: `x-query-backend-stats` over its monitor, checked against a schema.

A VM is not trusted: it answers in bounded time with bounded size, and what it says is data of known types and ranges:
one negative counter or one name that comes twice would make readers of our metrics refuse those of every VM.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import msgspec

from ipc.queue_stats import BUCKETS, LARGEST, MAX_QUEUES
from vmm_core.errors import VmmError
from vmm_core.rundir import FRESH, SOCKET, base_directory

TIME_LIMIT = 2.0  # seconds for one VM to answer
SIZE_LIMIT = 4 << 20  # bytes of an answer
AT_ONCE = 64  # VMs that are asked at the same time
MAX_BACKENDS, ALL_QUEUES = 256, 2048  # of one VM
REQUEST = b'{"execute":"x-query-backend-stats"}\n'

Count = Annotated[int, msgspec.Meta(ge=0, le=LARGEST)]
Amount = Annotated[float, msgspec.Meta(ge=0, le=1e18)]
Name = Annotated[str, msgspec.Meta(max_length=255)]
Few = msgspec.Meta(max_length=16)


class Process(msgspec.Struct, rename="kebab"):
    """What one process uses; None where the kernel would not say. Bytes, seconds, counts."""

    cpu_user: Amount = 0.0
    cpu_system: Amount = 0.0
    minor_faults: Count = 0
    major_faults: Count = 0
    threads: Count = 0
    age: Amount = 0.0
    rss: Count = 0
    rss_anonymous: Count = 0
    rss_file: Count = 0
    rss_shared: Count = 0
    voluntary_switches: Count | None = None
    involuntary_switches: Count | None = None
    read_chars: Count | None = None
    written_chars: Count | None = None
    read_calls: Count | None = None
    write_calls: Count | None = None
    read_bytes: Count | None = None
    written_bytes: Count | None = None
    descriptors: Count | None = None
    pss: Count | None = None
    pss_anonymous: Count | None = None
    pss_file: Count | None = None
    pss_shared: Count | None = None
    uss: Count | None = None

    @property
    def own_memory(self) -> int:
        """Without guest memory, which is the core's: PSS if we know it, else what is resident."""
        if self.pss_anonymous is not None and self.pss_file is not None:
            return self.pss_anonymous + self.pss_file
        return self.rss_anonymous + self.rss_file


class Queue(msgspec.Struct, rename="kebab"):
    """Counters since the device was first served; `latency` by powers of two of microseconds."""

    kicks: Count = 0
    calls: Count = 0
    calls_suppressed: Count = 0
    requests: Count = 0
    read_bytes: Count = 0
    written_bytes: Count = 0
    errors: Count = 0
    in_flight: Count = 0
    latency_ns: Count = 0
    latency: Annotated[list[Count], msgspec.Meta(max_length=BUCKETS)] = msgspec.field(
        default_factory=lambda: [0] * BUCKETS
    )


class Limit(msgspec.Struct, rename="kebab"):
    limit: Name
    value: Name
    in_force: bool
    by: str


class Backend(msgspec.Struct, rename="kebab"):
    """One device's backend; no `process` while there is none, or when it is not the VM's."""

    id: Name
    pid: Count = 0
    state: Name = ""
    restarts: Count = 0
    process: Process = msgspec.field(default_factory=Process)
    queues: Annotated[list[Queue], msgspec.Meta(max_length=MAX_QUEUES)] = msgspec.field(default_factory=list)
    limits: Annotated[list[Limit], Few] = msgspec.field(default_factory=list)
    memory_kills: Count = 0
    pressure: Annotated[
        dict[Name, Annotated[dict[Name, Annotated[dict[Name, Amount], Few]], Few]], Few
    ] = msgspec.field(default_factory=dict)  # fmt: skip

    def __post_init__(self) -> None:
        _unlike("limits", (each.limit for each in self.limits))


class Core(msgspec.Struct, rename="kebab"):
    pid: Count = 0
    process: Process = msgspec.field(default_factory=Process)
    guest_memory: Count = 0


class Reading(msgspec.Struct, rename="kebab"):
    """A VM's account. `vm` and `taken` (monotonic seconds) are ours, the rest is the VM's."""

    core: Core
    backends: Annotated[list[Backend], msgspec.Meta(max_length=MAX_BACKENDS)]
    name: Name = ""
    vm: str = ""
    taken: float = 0.0

    def __post_init__(self) -> None:
        _unlike("backends", (each.id for each in self.backends))
        if sum(len(each.queues) for each in self.backends) > ALL_QUEUES:
            raise ValueError(f"more than {ALL_QUEUES} queues")


def _unlike(what: str, names: Iterable[str]) -> None:
    known = list(names)
    if len({*known}) < len(known):
        raise ValueError(f"two {what} of one name")


class Answer(msgspec.Struct):
    result: Reading = msgspec.field(name="return")


class ReadingError(VmmError):
    """A VM that did not answer as it should; one line."""

    def __init__(self, vm: str, reason: str) -> None:
        super().__init__(f"{vm}: {reason}")
        self.vm = vm


def monitors(base: str = "") -> dict[str, str]:
    """The monitor of each VM in the run directory, by the VM's name there. VmmError when it cannot be read."""
    place = base or base_directory()
    try:
        names = sorted(os.listdir(place)) if place else []
    except FileNotFoundError:
        names = []
    except OSError as error:
        raise VmmError(f"{place}: {error.strerror}") from error
    found = {_shown(name): str(Path(place, name, SOCKET)) for name in names if not name.startswith(FRESH)}
    return {name: path for name, path in found.items() if os.path.exists(path)}


def _shown(name: str) -> str:
    """A directory's name as text: no VM of ours makes one that is none, and it must not silence the others."""
    return os.fsencode(name).decode(errors="backslashreplace")


def read(vm: str, path: str) -> Reading:
    """Ask one VM; the connection is ours for milliseconds, as a monitor serves one client at a time. ReadingError."""
    if not path:
        raise ReadingError(vm, "there is no such VM in the run directory")
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.settimeout(TIME_LIMIT)
            sock.connect(path)
            sock.sendall(REQUEST)
            reading = _answer(sock)
        except OSError as error:
            raise ReadingError(vm, f"{path}: {error.strerror or error}") from error
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ReadingError(vm, f"not an account of a VM: {error}") from error
    reading.vm, reading.taken = vm, time.monotonic()
    return reading


def read_all(places: dict[str, str]) -> tuple[list[Reading], list[ReadingError]]:
    """Ask all at once: those that do not answer are waited for together."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        said = list(threads.map(_read_or_why, places, places.values()))
    failures = [each for each in said if isinstance(each, ReadingError)]
    return [each for each in said if isinstance(each, Reading)], failures


def _read_or_why(vm: str, path: str) -> Reading | ReadingError:
    try:
        return read(vm, path)
    except ReadingError as error:
        return error


def _answer(sock: socket.socket) -> Reading:
    """The answer, which comes after a greeting and perhaps events."""
    deadline = time.monotonic() + TIME_LIMIT
    pending = b""
    while len(pending) < SIZE_LIMIT:
        left = deadline - time.monotonic()
        if left <= 0:  # also of a VM that always has something to say
            raise TimeoutError("timed out")
        sock.settimeout(left)
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
