"""`stratovirt-events`: what happens to one VM, or to all in the run directory, as lines or on a ZeroMQ bus.

Published messages have two frames: the topic `VM EVENT`, to subscribe to by prefix, and a msgpack map of `vm`, `event`,
`data` and `time` (seconds since 1970). Beside QMP's events there are VM_FOUND, VM_LOST and, with `--statistics`,
STATISTICS, the answer of x-query-backend-stats. A subscriber that is too slow loses messages; nobody waits for it.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TextIO

import msgpack
import msgspec
import zmq

from vmm_core.errors import VmmError
from vmm_core.metrics.exporter import add_choice, interval, places
from vmm_core.metrics.readings import REQUEST, SIZE_LIMIT

LOOK_AROUND = 1.0  # seconds between looks at the run directory
CONNECT_LIMIT = 2.0  # seconds

Publish = Callable[[dict[str, Any]], None]


class Follower:
    """A connection to one VM's monitor. ValueError and OSError from its methods: the VM is gone, or is none."""

    def __init__(self, vm: str, path: str) -> None:
        self.vm = vm
        self._pending = b""
        self.socket = socket.socket(socket.AF_UNIX)
        try:
            self.socket.settimeout(CONNECT_LIMIT)
            self.socket.connect(path)
            self.socket.setblocking(False)
        except OSError:
            self.socket.close()
            raise

    def ask(self) -> None:
        """Ask for statistics; they come as everything else does."""
        self.socket.send(REQUEST)

    def messages(self) -> list[dict[str, Any]]:
        """What the VM has said since the last look."""
        data = self.socket.recv(1 << 16)
        if not data:
            raise OSError("it hung up")
        *lines, self._pending = (self._pending + data).split(b"\r\n")
        if len(self._pending) > SIZE_LIMIT:
            raise ValueError(f"a message of more than {SIZE_LIMIT} bytes")
        return [found for line in lines if (found := self._message(line)) is not None]

    def _message(self, line: bytes) -> dict[str, Any] | None:
        said = msgspec.json.decode(line, type=dict[str, Any])
        if "return" in said:
            return message(self.vm, "STATISTICS", said["return"])
        if isinstance(said.get("event"), str):
            return message(self.vm, said["event"], said.get("data"))
        return None


def message(vm: str, event: str, data: object = None) -> dict[str, Any]:
    return {"vm": vm, "event": event, "data": data or {}, "time": time.time()}


class Watch:
    """Follows VMs as they come and go, and passes on what they say."""

    def __init__(self, find: Callable[[], dict[str, str]], publish: Publish, statistics: float = 0.0) -> None:
        self._find = find
        self._publish = publish
        self._statistics = statistics
        self._followers: dict[str, Follower] = {}
        self._asked = 0.0

    def run(self) -> None:
        """Until interrupted."""
        while True:
            self.look_around()
            deadline = time.monotonic() + LOOK_AROUND
            while (left := deadline - time.monotonic()) > 0:
                self.listen(left)

    def look_around(self) -> None:
        """Follow VMs that are new, and ask for statistics if it is time."""
        for vm, path in self._find().items():
            if vm not in self._followers:
                self._follow(vm, path)
        if self._statistics and time.monotonic() >= self._asked + self._statistics:
            self._asked = time.monotonic()
            for follower in list(self._followers.values()):
                self._with(follower, follower.ask)

    def listen(self, seconds: float) -> None:
        """Wait for VMs to say something, at most so long."""
        poll = select.poll()
        by_fd = {follower.socket.fileno(): follower for follower in self._followers.values()}
        for fd in by_fd:
            poll.register(fd, select.POLLIN)
        for fd, _events in poll.poll(seconds * 1000):
            follower = by_fd[fd]
            for said in self._with(follower, follower.messages) or []:
                self._publish(said)

    def close(self) -> None:
        for follower in self._followers.values():
            follower.socket.close()
        self._followers = {}

    def _follow(self, vm: str, path: str) -> None:
        try:
            self._followers[vm] = Follower(vm, path)
        except OSError:
            return  # it is just coming or going: the next look will tell
        self._publish(message(vm, "VM_FOUND"))

    def _with(self, follower: Follower, what: Callable[[], Any]) -> Any:
        try:
            return what()
        except BlockingIOError:
            return None
        except (OSError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            follower.socket.close()
            del self._followers[follower.vm]
            self._publish(message(follower.vm, "VM_LOST", {"reason": str(error)[:200]}))
            return None


class Lines:
    """Messages as JSON, one a line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, said: dict[str, Any]) -> None:
        self._stream.write(msgspec.json.encode(said).decode() + "\n")
        self._stream.flush()


class Bus:
    """A PUB socket at `ipc://PATH` (mode 0600) or `tcp://LOOPBACK:PORT`; VmmError for any other place."""

    def __init__(self, endpoint: str) -> None:
        check_endpoint(endpoint)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUB)
        before = os.umask(0o177)
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise VmmError(f"--publish: {endpoint}: {error}") from error
        finally:
            os.umask(before)

    def __call__(self, said: dict[str, Any]) -> None:
        try:
            packed = msgpack.packb(said)
        except ValueError:
            return  # deeper than any VM of ours nests
        self._socket.send_multipart([f"{said['vm']} {said['event']}".encode("utf-8", "replace"), packed])

    def close(self) -> None:
        self._context.destroy(linger=0)


def check_endpoint(endpoint: str) -> None:
    """VmmError for a place that others than this machine's users could reach."""
    scheme, _, place = endpoint.partition("://")
    host, _, port = place.rpartition(":")
    try:
        local = scheme == "ipc" and place.startswith("/")
        local = local or (scheme == "tcp" and port.isdigit() and ipaddress.ip_address(host.strip("[]")).is_loopback)
    except ValueError:
        local = False
    if not local:
        raise VmmError(f"--publish: {endpoint}: expected ipc:///PATH or tcp://ADDRESS:PORT with a loopback address")


def main() -> int:
    """The console script."""
    return run(sys.argv[1:])


def run(arguments: Sequence[str]) -> int:
    """Follow until interrupted; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="stratovirt-events", description="What happens to virtual machines, as it happens.", allow_abbrev=False
    )
    parser.add_argument("--publish", metavar="ENDPOINT", help="ipc:///PATH or tcp://127.0.0.1:PORT; default: print")
    parser.add_argument("--statistics", type=interval, default=0.0, metavar="SECONDS", help="what they use, so often")
    add_choice(parser)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        publish = Bus(options.publish) if options.publish else Lines(sys.stdout)
        Watch(lambda: places(options), publish, options.statistics).run()
    except VmmError as error:
        sys.stderr.write(f"stratovirt-events: {error}\n")
        return 1
    except (KeyboardInterrupt, BrokenPipeError):
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
