"""Fixtures of the wire tests: a backend behind a socket, a raw front-end on it, and no descriptor left over.

`pytest tests/wire --vhost-user-backend="CMD ..."` runs every test that only looks at the wire against `CMD ...
--socket-path=PATH` instead of our server with a device in memory; tests that look inside are left out.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
import threading
from typing import TYPE_CHECKING, Any

import pytest

from backends.runtime.program import listen
from backends.runtime.server import Server
from tests.wire.fake_backend import FakeBackend
from tests.wire.frontend_rig import Rig
from tests.wire.memory_device import MemoryDevice
from tests.wire.raw_frontend import RAM_SIZE, RawFrontend
from vmm_core.vhost.connect import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OPTION = "--vhost-user-backend"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(OPTION, metavar="CMD", help="run the vhost-user wire tests against this backend program")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", "error::pytest.PytestUnhandledThreadExceptionWarning")


def open_fds() -> int:
    """Descriptors open in this process."""
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
def _no_descriptor_left(request: pytest.FixtureRequest) -> Iterator[None]:
    before = open_fds()
    yield
    assert open_fds() == before, "a descriptor leaked"


@pytest.fixture
def ram() -> Iterator[int]:
    """A memfd that plays guest memory."""
    fd = os.memfd_create("guest-ram")
    os.ftruncate(fd, RAM_SIZE)
    yield fd
    os.close(fd)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption(OPTION, None):
        return
    inside = [item for item in items if "device" in getattr(item, "fixturenames", ())]
    items[:] = [item for item in items if item not in inside]
    config.hook.pytest_deselected(items=inside)


@pytest.fixture
def device() -> MemoryDevice:
    return MemoryDevice()


@pytest.fixture
def backend_log() -> list[str]:
    return []


@pytest.fixture
def backend(request: pytest.FixtureRequest, backend_log: list[str]) -> Iterator[str]:
    """A listening backend; yields its socket's path. It must still answer a new front-end when the test is over."""
    with tempfile.TemporaryDirectory(prefix="wire") as directory:
        path = f"{directory}/backend.sock"
        command = request.config.getoption(OPTION, None)
        if command:
            process = subprocess.Popen([*shlex.split(command), f"--socket-path={path}"])
            os.close(connect(path, timeout=10))
            stop: Callable[[], object] = process.terminate
            wait: Callable[[float], object] = process.wait
        else:
            server = Server(request.getfixturevalue("device"), backend_log.append)
            thread = threading.Thread(target=server.serve_listener, args=(listen(path),))
            thread.start()
            stop, wait = server.stop, thread.join
        try:
            yield path
            last = RawFrontend(path)
            last.greet()
            assert not last.closed(), "the backend does not serve any more"
            last.close()
        finally:
            stop()
            wait(10)
            if not command:
                server.close()


@pytest.fixture
def connect_frontend(backend: str) -> Iterator[Callable[[], RawFrontend]]:
    """Connects further front-ends to the backend, which serves one at a time."""
    opened: list[RawFrontend] = []

    def open_one() -> RawFrontend:
        opened.append(RawFrontend(backend))
        return opened[-1]

    yield open_one
    for frontend in opened:
        frontend.close()


@pytest.fixture
def frontend(connect_frontend: Callable[[], RawFrontend]) -> RawFrontend:
    """A front-end that has negotiated everything the backend offers."""
    one = connect_frontend()
    one.greet()
    return one


@pytest.fixture
def rigs() -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(**options: Any) -> Rig:
        made.append(Rig(**options))
        return made[-1]

    yield make
    for rig in made:
        rig.close()


@pytest.fixture
def fakes() -> Iterator[Callable[..., FakeBackend]]:
    made: list[FakeBackend] = []

    def make(**options: Any) -> FakeBackend:
        made.append(FakeBackend(**options))
        return made[-1]

    yield make
    for fake in made:
        fake.close()
