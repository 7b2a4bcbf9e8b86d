"""A disk's driver without a guest: `python -m backends.blk` at the other end of a socket, rings in a memfd.

`Backend` is the process, `Disk` one session with it. A request that is not answered within seconds fails the test, with
what the backend said.
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ipc import vhost_user as wire
from ipc.fds import close_all
from tests.deadlines import Deadline
from tests.device.blk_rings import RING_BYTES, Buffer, PackedRing, SplitRing
from tests.wire.raw_frontend import MIB, USER, RawFrontend
from tools.paths import ROOT
from vmm_core.vhost.connect import connect

if TYPE_CHECKING:
    from collections.abc import Sequence

IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 4, 8, 11, 13
OK, IOERR, UNSUPP, UNTOUCHED = 0, 1, 2, 0xEE
F_FLUSH, F_CONFIG_WCE, F_INDIRECT, F_EVENT_IDX, F_LOG_ALL, F_PROTOCOL, F_VERSION_1, F_PACKED = (
    9, 11, 28, 29, 26, 30, 32, 34,
)  # fmt: skip
RAM = 32 * MIB
DATA = 4 * MIB  # guest address of the requests' buffers; the rings are below
SECTOR = 512
LIMIT = 10.0


class Backend:
    """The program, alone: killed at the end if it has not ended."""

    def __init__(
        self, image: Path, *options: str, log: Path | None = None, stderr: int = -1, listen: Path | None = None
    ) -> None:
        """Serve `image` on a socket pair, or at the path `listen`, where `connect` makes the next session's socket.

        What it says goes to `log` (by default beside the image), or to the descriptor `stderr`.
        """
        self.socket, theirs = socket.socketpair()
        self.log_path = log or image.with_suffix(".log")
        self._listen = listen
        where = f"--socket-path={listen}" if listen else f"--fd={theirs.fileno()}"
        command = [sys.executable, "-m", "backends.blk", where, f"--blk-file={image}", *options]
        with theirs, self.log_path.open("ab") as file:
            self.process = subprocess.Popen(
                command, cwd=ROOT, pass_fds=[theirs.fileno()], stderr=file if stderr < 0 else stderr
            )

    def connect(self) -> None:
        """Connect to the path it listens at; waits until it does."""
        self.socket.close()
        self.socket = socket.socket(fileno=connect(str(self._listen), timeout=LIMIT))

    def log(self) -> str:
        return self.log_path.read_text()

    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        self.socket.close()


class Result(NamedTuple):
    """A request's end: status byte, what was read, the used length."""

    status: int
    data: bytes
    written: int


class Request(NamedTuple):
    """A request under way: where its status and its data will be."""

    queue: int
    status: int
    data: int
    length: int


class Disk:
    """A session: features negotiated, memory mapped, rings running."""

    def __init__(
        self,
        backend: Backend,
        *,
        packed: bool = False,
        event_idx: bool = False,
        queues: int = 1,
        size: int = 64,
        without: int = 0,
        dirty_log: bool = False,
        ram: int = -1,
    ) -> None:
        self.packed, self.event_idx, self.size = packed, event_idx, size
        self.ram_fd = os.memfd_create("guest-ram", os.MFD_CLOEXEC) if ram < 0 else ram
        os.ftruncate(self.ram_fd, RAM)
        self.ram = mmap.mmap(self.ram_fd, RAM)
        self.kicks = [os.eventfd(0) for _ in range(queues)]
        self.calls = [os.eventfd(0) for _ in range(queues)]
        self.errors = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(queues)]
        kind = PackedRing if packed else SplitRing
        self.rings = [kind(self.ram, index * RING_BYTES, size) for index in range(queues)]
        self.pending: dict[tuple[int, int], Request] = {}
        self.results: dict[tuple[int, int], Result] = {}
        self._free = DATA
        self._unwanted = without | (0 if packed else 1 << F_PACKED) | (0 if event_idx else 1 << F_EVENT_IDX)
        self._unwanted |= 0 if dirty_log else 1 << F_LOG_ALL
        self.connect(backend)

    def connect(self, backend: Backend) -> None:
        """Begin a session with `backend`, also one that comes after another died; rings and memory stay as they are."""
        self.backend = backend
        self.front = RawFrontend(backend.socket)
        (offered,) = self.front.call(wire.GET_FEATURES)
        self.features = offered & ~self._unwanted
        self.front.greet(features=self.features)
        assert self.front.acknowledged(wire.SET_MEM_TABLE, [(0, RAM, USER, 0)], fds=[self.ram_fd])
        for ring in self.rings:
            ring.event_idx = self.event_idx

    def start(self, base: int | None = None) -> Disk:
        """Start every ring; `base` where a front-end would have it go on."""
        initial = 0x80008000 if self.packed else 0
        for index in range(len(self.rings)):
            assert self.start_ring(index, initial if base is None else base)
        return self

    def start_ring(self, index: int, base: int, flags: int = 0) -> bool:
        """Whether the backend took the ring, and with it the inflight region."""
        ring, tell = self.rings[index], self.front.acknowledged
        assert tell(wire.SET_VRING_NUM, index, self.size)
        assert tell(wire.SET_VRING_BASE, index, base)
        addresses = (USER + ring.base, USER + ring.device, USER + ring.driver)
        assert tell(wire.SET_VRING_ADDR, index, flags, *addresses, ring.device)
        assert tell(wire.SET_VRING_CALL, index, fds=[self.calls[index]])
        assert tell(wire.SET_VRING_ERR, index, fds=[self.errors[index]])
        if not tell(wire.SET_VRING_KICK, index, fds=[self.kicks[index]]):
            return False
        return tell(wire.SET_VRING_ENABLE, index, 1)

    def begin_anew(self) -> None:
        """After a reset: negotiate again, with empty rings."""
        assert self.front.acknowledged(wire.SET_FEATURES, self.features)
        for index, ring in enumerate(self.rings):
            self.ram[ring.base : ring.base + RING_BYTES] = bytes(RING_BYTES)
            self.rings[index] = type(ring)(self.ram, ring.base, ring.size)
        self.pending, self.results = {}, {}
        self.start()

    # Requests, from raw to convenient.

    def room(self, length: int, alignment: int = 16) -> int:
        """Guest memory that no request under way uses."""
        if self._free + length + alignment > RAM:
            assert not self.pending
            self._free = DATA
        place = -(-self._free // alignment) * alignment
        self._free = place + length
        return place

    def header(self, kind: int, sector: int) -> Buffer:
        place = self.room(16)
        self.ram[place : place + 16] = struct.pack("<IIQ", kind, 0, sector)
        return Buffer(place, 16)

    def status(self) -> Buffer:
        place = self.room(1)
        self.ram[place] = UNTOUCHED
        return Buffer(place, 1, writable=True)

    def submit_chain(
        self, chain: Sequence[Buffer], queue: int = 0, *, indirect: bool = False, kick: bool = True
    ) -> tuple[int, int]:
        """Make a chain available whose last byte is the status; returns what `finish` wants."""
        table = self.room(16 * len(chain)) if indirect else 0
        key = (queue, self.rings[queue].add(chain, table))
        data = next((buffer for buffer in chain if buffer.writable), None)
        last = chain[-1] if chain else Buffer(0, 1)
        length = sum(buffer.length for buffer in chain if buffer.writable) - 1
        self.pending[key] = Request(queue, last.address + last.length - 1, data.address if data else 0, max(0, length))
        if kick:
            self.kick(queue)
        return key

    def submit(
        self, kind: int, sector: int = 0, data: bytes = b"", length: int = 0, queue: int = 0, *,
        indirect: bool = False, at: int = 0, kick: bool = True,
    ) -> tuple[int, int]:  # fmt: skip
        """A request as drivers make it: header, data (to write, or `length` bytes to read) at `at`, status."""
        chain = [self.header(kind, sector)]
        if data or length:
            place = at or self.room(len(data) + length, SECTOR)
            self.ram[place : place + len(data)] = data
            chain.append(Buffer(place, len(data) or length, writable=not data))
        return self.submit_chain([*chain, self.status()], queue, indirect=indirect, kick=kick)

    def kick(self, queue: int = 0) -> None:
        os.eventfd_write(self.kicks[queue], 1)

    def finish(self, key: tuple[int, int]) -> Result:
        """Wait for a request's end."""
        deadline = Deadline(LIMIT)
        ring = self.rings[key[0]]
        while key not in self.results:
            if self.collect(key[0]):
                continue
            ring.arm()
            if not self.collect(key[0]):
                ready = select.select([self.calls[key[0]]], [], [], deadline.left())[0]
                assert ready, f"no answer; the backend said: {self.backend.log()}"
                os.eventfd_read(self.calls[key[0]])
        return self.results.pop(key)

    def collect(self, queue: int = 0) -> bool:
        """Take what has come back; whether anything has."""
        found = self.rings[queue].take()
        for number, written in found:
            request = self.pending.pop((queue, number))
            data = self.ram[request.data : request.data + request.length]
            self.results[queue, number] = Result(self.ram[request.status], data, written)
        return bool(found)

    def do(self, kind: int, sector: int = 0, data: bytes = b"", length: int = 0, **how: bool | int) -> Result:
        return self.finish(self.submit(kind, sector, data, length, **how))  # type: ignore[arg-type]

    def do_chain(self, chain: Sequence[Buffer], **how: bool) -> Result:
        return self.finish(self.submit_chain(chain, **how))

    def range(self, kind: int, sector: int, sectors: int, flags: int = 0) -> Result:
        """DISCARD or WRITE_ZEROES of one range."""
        return self.do(kind, 0, struct.pack("<QII", sector, sectors, flags))

    def write(self, sector: int, data: bytes, **how: bool | int) -> int:
        return self.do(OUT, sector, data, 0, **how).status

    def read(self, sector: int, length: int, **how: bool | int) -> bytes:
        """Data of a read that must work."""
        result = self.do(IN, sector, b"", length, **how)
        assert (result.status, result.written) == (OK, length + 1)
        return result.data

    def broken(self, queue: int = 0) -> bool:
        """Wait until the ring is reported as broken; False when seconds pass without."""
        return bool(select.select([self.errors[queue]], [], [], LIMIT)[0])

    def works(self, queue: int = 0) -> bool:
        """Whether a plain request still gets through."""
        return self.do(GET_ID, length=20, queue=queue).status == OK

    def close(self) -> None:
        self.front.close()
        self.ram.close()
        close_all([self.ram_fd, *self.kicks, *self.calls, *self.errors])
