"""Fixtures of the device tests: disks without a VM, and the monitor of a module's own `machine`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.device.blk_driver import Backend, Disk
from tests.device.blk_survivor import Survivor
from tests.wire.raw_frontend import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.processes import RawQmp, TestMachine


@pytest.fixture
def qmp(machine: TestMachine) -> Iterator[RawQmp]:
    client = machine.qmp()
    yield client
    client.close()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A sparse image of 8 MiB."""
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(8 * MIB)
    return path


@pytest.fixture
def backends() -> Iterator[Callable[..., Backend]]:
    made: list[Backend] = []

    def make(image: Path, *options: str, **how: Any) -> Backend:
        made.append(Backend(image, *options, **how))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


@pytest.fixture
def disks(backends: Callable[..., Backend]) -> Iterator[Callable[..., Disk]]:
    """Makes running disks over an image: options of the program, then how the driver uses it."""
    made: list[Disk] = []

    def make(
        image: Path, *options: str, start: bool = True, log: Path | None = None, stderr: int = -1, **how: Any
    ) -> Disk:
        disk = Disk(backends(image, *options, log=log, stderr=stderr), **how)
        made.append(disk)
        return disk.start() if start else disk

    yield make
    for disk in made:
        disk.close()


@pytest.fixture
def survivors(backends: Callable[..., Backend], image: Path) -> Iterator[Callable[..., Survivor]]:
    made: list[Survivor] = []

    def make(packed: bool, *options: str, size: int = 64, event_idx: bool = False) -> Survivor:
        made.append(Survivor(lambda: backends(image, *options), packed, size, event_idx))
        return made[-1]

    yield make
    for survivor in made:
        survivor.close()
