"""Our VM runs from a disk that qemu-storage-daemon exports by vhost-user."""

from __future__ import annotations

import pytest

from tests.guest.harness import Plan, copy_of_root, empty_disk, start
from tests.interop.processes import need, our_backend, serving, storage_daemon


def attach(plan: Plan, index: int, queues: int = 1) -> None:
    """Add the vhost-user disk behind `directory`/disk{index}.sock to the command line."""
    path = plan.directory / f"disk{index}.sock"
    plan.extra += ["-chardev", f"socket,id=chr{index},path={path}"]
    plan.extra += ["-device", f"vhost-user-blk-device,id=vub{index},chardev=chr{index},num-queues={queues}"]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("queues", [1, 2])
def test_a_guest_runs_from_qemu_storage_daemon(plan: Plan, queues: int) -> None:
    need("qemu-storage-daemon", "qemu-system-common")
    plan.cpus = queues
    plan.append = "root=/dev/vda rw"
    images = [copy_of_root(plan.directory), empty_disk(plan.directory / "data", 32 << 20)]
    paths = [plan.directory / f"disk{index}.sock" for index in range(2)]
    for index in range(2):
        attach(plan, index, queues)
    with (
        serving(storage_daemon(paths[0], images[0], queues), paths[0]),
        serving(storage_daemon(paths[1], images[1], queues), paths[1]),
        start(plan) as guest,
    ):
        console = guest.wait_ready(90).console
        assert console.check("ls /sys/block/vdb/mq | wc -l") == str(queues)
        for mode in ("direct", "cached"):
            assert console.check(f"blkverify /dev/vdb 32 3 4 {mode}", 90).startswith("VERIFY ok")
        console.check("cd /usr/share/stratocell && sha256sum -c SHA256SUMS")
        assert guest.power_off() == 0


@pytest.mark.timeout(240)
def test_a_guest_runs_from_our_backend_started_by_hand(plan: Plan) -> None:
    plan.append = "root=/dev/vda rw"
    path = plan.directory / "disk0.sock"
    attach(plan, 0)
    with serving(our_backend(path, copy_of_root(plan.directory)), path), start(plan) as guest:
        console = guest.wait_ready(90).console
        assert console.check("blkverify /root/file 16 3 2 direct", 90).startswith("VERIFY ok")
        assert guest.power_off() == 0
