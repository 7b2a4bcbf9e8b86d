"""Fixtures of the guest layer; what a machine lacks is a skip that names it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deadlines import SCALE
from tests.guest.harness import Disk, Guest, Plan, copy_of_root, start
from tools.paths import GUEST, STRATOVIRT

TEST_TIMEOUT = max(180.0, 40.0 * SCALE)  # seconds


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A guest takes seconds to boot, and ten times that where the machine is emulated."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(TEST_TIMEOUT))


@pytest.fixture(autouse=True)
def built_guest() -> None:
    """Skip, naming what is missing, where `make setup` has not run."""
    for path in (STRATOVIRT, GUEST / "vmlinuz", GUEST / "initramfs.cpio", GUEST / "root.ext4"):
        if not path.exists():
            pytest.skip(f"{path.name} is not built (make setup)")


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """A directory whose sockets have paths below the 108 bytes that a unix address can carry."""
    path = Path(tempfile.mkdtemp(prefix="sc-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def plan(short_directory: Path, request: pytest.FixtureRequest) -> Plan:
    """A VM without a disk, on the accelerator that --accel names."""
    return Plan(short_directory, accelerator=request.config.getoption("accel"))


@pytest.fixture
def disk_plan(plan: Plan) -> Plan:
    """A VM with its own copy of the root disk."""
    plan.disks.append(Disk(copy_of_root(plan.directory), drive="direct=off,aio=io_uring"))
    return plan


@pytest.fixture
def guest(disk_plan: Plan) -> Iterator[Guest]:
    """A running VM with a root disk, ready for commands."""
    with start(disk_plan) as running:
        yield running.wait_ready()
