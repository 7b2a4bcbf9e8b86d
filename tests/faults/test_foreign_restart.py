"""A backend that somebody else runs may go away and come back: its guest waits, and loses nothing."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.deadlines import SCALE
from tests.faults.test_restart import finish, work
from tests.guest.harness import Plan, empty_disk, start
from tests.interop.processes import need, our_backend, serving, storage_daemon
from tools.bench.block import wait_until_unlocked

DISK = "vub"


@pytest.fixture
def foreign(disk_plan: Plan) -> tuple[Plan, Path, Path]:
    """A VM whose second disk is behind a socket; its path and the image."""
    path, image = disk_plan.directory / "disk.sock", empty_disk(disk_plan.directory / "data", 16 << 20)
    disk_plan.extra += ["-chardev", f"socket,id=chr,path={path}"]
    disk_plan.extra += ["-device", f"vhost-user-blk-device,id={DISK},chardev=chr"]
    return disk_plan, path, image


def test_a_foreign_backend_killed_under_load_is_reconnected_to(foreign: tuple[Plan, Path, Path]) -> None:
    plan, path, image = foreign
    with ExitStack() as first:
        first.enter_context(serving(our_backend(path, image), path))
        with start(plan) as guest:
            guest.wait_ready()
            work(guest, 4)
            guest.console.wait_for("^ROUND-1$", 60)
            first.close()
            assert guest.qmp.wait_event("BACKEND_DIED")["data"]["id"] == DISK
            wait_until_unlocked(image)
            with serving(our_backend(path, image), path):
                assert guest.qmp.wait_event("BACKEND_RESTARTED")["data"]["blackout"] > 0
                finish(guest)


def test_a_foreign_backend_that_comes_back_broken_is_reconnected_to_until_it_works(
    foreign: tuple[Plan, Path, Path],
) -> None:
    plan, path, image = foreign
    with ExitStack() as first:
        first.enter_context(serving(our_backend(path, image), path))
        with start(plan) as guest:
            guest.wait_ready()
            work(guest, 2)
            guest.console.wait_for("^ROUND-1$", 60)
            first.close()
            path.unlink(missing_ok=True)
            hang_up_on(path, 4)
            wait_until_unlocked(image)
            with serving(our_backend(path, image), path):
                guest.qmp.wait_event("BACKEND_RESTARTED")
                finish(guest)


def test_a_foreign_backend_that_comes_back_with_less_is_refused(foreign: tuple[Plan, Path, Path]) -> None:
    """The guest was offered packed rings, which qemu-storage-daemon does not have."""
    need("qemu-storage-daemon", "qemu-system-common")
    plan, path, image = foreign
    with ExitStack() as first:
        first.enter_context(serving(our_backend(path, image), path))
        with start(plan) as guest:
            guest.wait_ready()
            first.close()
            wait_until_unlocked(image)
            with serving(storage_daemon(path, image), path):
                failed = guest.qmp.wait_event("BACKEND_FAILED")
                assert "lacks features 0x400000000" in failed["data"]["reason"]
            wait_until_unlocked(image)
            with serving(our_backend(path, image), path):
                guest.qmp.execute("x-backend-restart", id=DISK)
                work(guest, 1)
                finish(guest)


def hang_up_on(path: Path, times: int) -> None:
    """Listen there and close one connection after the other at once."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(20 * SCALE)
        listener.bind(str(path))
        listener.listen()
        for _ in range(times):
            listener.accept()[0].close()
    path.unlink()


def test_a_foreign_backend_that_stays_away_is_given_up_and_can_be_called_back(
    foreign: tuple[Plan, Path, Path],
) -> None:
    plan, path, image = foreign
    plan.extra += ["-backend", f"{DISK},window=1"]
    with ExitStack() as first:
        first.enter_context(serving(our_backend(path, image), path))
        with start(plan) as guest:
            guest.wait_ready()
            work(guest, 2)
            first.close()
            assert "nobody has listened" in guest.qmp.wait_event("BACKEND_FAILED")["data"]["reason"]
            assert guest.qmp.execute("query-status")["running"] is True
            wait_until_unlocked(image)
            with serving(our_backend(path, image), path):
                guest.qmp.execute("x-backend-restart", id=DISK)
                finish(guest)


def test_a_foreign_backend_that_keeps_no_account_is_not_trusted_with_requests_in_flight(
    foreign: tuple[Plan, Path, Path],
) -> None:
    """qemu-storage-daemon comes back, and serves again where nothing was under way when it went."""
    need("qemu-storage-daemon", "qemu-system-common")
    plan, path, image = foreign
    plan.extra[-1] += ",packed=off"
    with ExitStack() as first:
        first.enter_context(serving(storage_daemon(path, image), path))
        with start(plan) as guest:
            guest.wait_ready()
            work(guest, 1)
            guest.console.wait_for("^ALLROUNDS$", 60)
            first.close()
            guest.qmp.wait_event("BACKEND_DIED")
            with serving(storage_daemon(path, image), path):
                guest.qmp.wait_event("BACKEND_RESTARTED")
                work(guest, 2)
                guest.console.wait_for("^ROUND-2$", 60)
                assert guest.power_off() == 0
