"""Sessions of any order: what a backend has mapped, started and enabled is what the front-end was told, at any moment.

Long form: `python -m tools.fuzz --seconds 600 sessions`.
"""

from __future__ import annotations

import os
import socket
import threading

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from backends.runtime.server import Server
from ipc import vhost_user as wire
from ipc.fds import pair
from tests.wire.conftest import open_fds
from tests.wire.memory_device import REFUSED_BASE, MemoryDevice
from tests.wire.raw_frontend import HIGH, LOW, NEXT, RAM_SIZE, USER, RawFrontend

EXAMPLES = int(os.environ.get("STRATOCELL_SESSION_EXAMPLES", "60"))
REGIONS = (LOW, NEXT, HIGH)
RINGS = st.integers(0, MemoryDevice.num_queues - 1)


class Session(RuleBasedStateMachine):
    """A front-end that knows what it may say, and at times says something else."""

    def __init__(self) -> None:
        super().__init__()
        self.before = open_fds()
        self.ram = os.memfd_create("guest-ram")
        os.ftruncate(self.ram, RAM_SIZE)
        self.bell = os.eventfd(0)
        self.device = MemoryDevice()
        self.server = Server(self.device, lambda line: None)
        self.sessions = 0

    @initialize()
    def connect(self) -> None:
        ours, theirs = pair()
        self.thread = threading.Thread(target=self.server.serve_connection, args=(theirs,))
        self.thread.start()
        self.front = RawFrontend(_socket(ours))
        self.front.greet()
        self.mapped: set[tuple[int, int, int]] = set()
        self.placed: set[int] = set()  # rings with a size, a base and addresses
        self.started: set[int] = set()
        self.enabled: set[int] = set()

    def hang_up(self) -> None:
        self.front.close()
        self.thread.join(20)
        assert not self.thread.is_alive()
        self.sessions += 1
        assert self.device.sessions == self.sessions

    @rule()
    def reconnect(self) -> None:
        self.hang_up()
        self.connect()

    @precondition(lambda self: not self.started)  # what becomes of running rings is the ring tests' business
    @rule(count=st.integers(1, 3))
    def map(self, count: int) -> None:
        self.front.map_ram(self.ram, *REGIONS[:count])
        self.mapped = {region[:3] for region in REGIONS[:count]}
        self.placed.clear()

    @precondition(lambda self: self.mapped)
    @rule(ring=RINGS, base=st.integers(0, 100))
    def place_and_kick(self, ring: int, base: int) -> None:
        if ring not in self.started:
            self.front.set_ring(ring, base=base)
            self.placed.add(ring)
        assert self.front.acknowledged(wire.SET_VRING_KICK, ring, fds=[self.bell])
        self.started.add(ring)

    @precondition(lambda self: self.placed - self.started)
    @rule(data=st.data())
    def kick_again(self, data: st.DataObject) -> None:
        ring = data.draw(st.sampled_from(sorted(self.placed - self.started)))
        assert self.front.acknowledged(wire.SET_VRING_KICK, ring, fds=[self.bell])
        self.started.add(ring)

    @precondition(lambda self: self.started)
    @rule(data=st.data(), on=st.booleans())
    def enable(self, data: st.DataObject, on: bool) -> None:
        ring = data.draw(st.sampled_from(sorted(self.started)))
        assert self.front.acknowledged(wire.SET_VRING_ENABLE, ring, int(on))
        (self.enabled.add if on else self.enabled.discard)(ring)

    @precondition(lambda self: self.started)
    @rule(data=st.data())
    def stop(self, data: st.DataObject) -> None:
        ring = data.draw(st.sampled_from(sorted(self.started)))
        self.front.call(wire.GET_VRING_BASE, ring, 0)
        self.started.discard(ring)

    @rule(ring=RINGS)
    def call(self, ring: int) -> None:
        assert self.front.acknowledged(wire.SET_VRING_CALL, ring, fds=[self.bell])

    @rule(ring=RINGS)
    def stop_what_may_not_run(self, ring: int) -> None:
        self.front.call(wire.GET_VRING_BASE, ring, 0)
        self.started.discard(ring)

    @rule()
    def ask(self) -> None:
        (features,) = self.front.call(wire.GET_FEATURES)
        assert features & MemoryDevice.features == MemoryDevice.features
        assert self.front.call(wire.GET_QUEUE_NUM) == (MemoryDevice.num_queues,)

    @precondition(lambda self: self.mapped)
    @rule(wrong=st.sampled_from(["ring", "size", "base", "address", "no descriptor"]))
    def say_what_is_wrong(self, wrong: str) -> None:
        """It is refused, and what runs goes on; a session that the backend ends for it begins anew."""
        front, unused = self.front, MemoryDevice.num_queues
        if wrong == "ring":
            refused = not front.acknowledged(wire.SET_VRING_NUM, unused, 64)
        elif wrong == "size":
            refused = not front.acknowledged(wire.SET_VRING_NUM, 0, 2 * MemoryDevice.max_queue_size)
        elif wrong == "base":
            refused = not front.acknowledged(wire.SET_VRING_BASE, 0, REFUSED_BASE)
        elif wrong == "address":
            nowhere = USER - 0x10000
            refused = not front.acknowledged(wire.SET_VRING_ADDR, 0, 0, nowhere, nowhere + 0x2000, nowhere + 0x1000, 0)
            self.placed -= {0} - self.started  # a ring is nowhere rather than where it was before the mistake
        else:
            refused = not front.acknowledged(wire.SET_MEM_TABLE, [LOW])
        assert refused
        if front.closed():
            self.hang_up()
            self.connect()

    @invariant()
    def backend_and_model_agree(self) -> None:
        if not hasattr(self, "front"):
            return
        self.front.call(wire.GET_FEATURES)  # all that was said before is done when this is answered
        assert set(self.device.regions) == self.mapped
        assert self.device.started == self.started
        assert self.device.enabled & self.started == self.enabled & self.started

    def teardown(self) -> None:
        if hasattr(self, "front"):
            self.hang_up()
        self.server.close()
        os.close(self.bell)
        os.close(self.ram)
        assert open_fds() == self.before, "a descriptor leaked"


def _socket(fd: int) -> socket.socket:
    return socket.socket(fileno=fd)


Session.TestCase.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestSession = Session.TestCase
