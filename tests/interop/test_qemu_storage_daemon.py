"""Our front-end on the vhost-user-blk export of QEMU's storage daemon (libvhost-user): config, features, rings."""

from __future__ import annotations

import os
import select
import shutil
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from ipc import vhost_user as wire
from tests.wire.frontend_rig import Rig
from vmm_core.vhost.connect import connect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DAEMON = shutil.which("qemu-storage-daemon")
SECTORS = 2048
QUEUES = 2
F_VERSION_1 = 32
HEADER_GPA, DATA_GPA, STATUS_GPA = 0x80000, 0x81000, 0x82000

pytestmark = pytest.mark.skipif(DAEMON is None, reason="needs qemu-storage-daemon (Debian: qemu-storage-daemon)")


@pytest.fixture
def export(tmp_path: Path) -> Iterator[str]:
    """The socket of an export of a 1 MiB image with two queues."""
    image, path = tmp_path / "disk.img", str(tmp_path / "blk.sock")
    image.write_bytes(os.urandom(512 * SECTORS))
    process = subprocess.Popen(
        [
            str(DAEMON),
            f"--blockdev=driver=file,node-name=f,filename={image}",
            "--blockdev=driver=raw,node-name=disk,file=f",
            f"--export=type=vhost-user-blk,id=e,node-name=disk,addr.type=unix,addr.path={path},writable=on,num-queues={QUEUES}",
        ]
    )
    os.close(connect(path, timeout=20))
    yield path
    process.terminate()
    process.wait(20)


@pytest.fixture(params=[False, True], ids=["plain", "dirty log"])
def rig(request: pytest.FixtureRequest, export: str) -> Iterator[Rig]:
    rig = Rig(queues=QUEUES, dirty_log=request.param)
    rig.device.attach(connect(export))
    yield rig
    rig.close()


def test_the_configuration_is_that_of_the_image(rig: Rig) -> None:
    assert struct.unpack("<Q", rig.device.read_config(0, 8)) == (SECTORS,)
    assert struct.unpack("<H", rig.device.read_config(34, 2)) == (QUEUES,)
    assert rig.broken == []


def test_the_features_are_offered_to_the_guest(rig: Rig) -> None:
    features = rig.device.device_features()
    assert features >> F_VERSION_1 & 1
    assert not features & wire.VHOST_FEATURES


def test_a_driver_can_come_go_and_come_again(rig: Rig) -> None:
    for _ in range(3):
        rig.drive(0, 1)
        rig.device.reset()
    assert rig.broken == []


def test_a_write_to_the_cache_mode_is_taken(rig: Rig) -> None:
    rig.device.write_config(32, b"\0")
    assert rig.broken == []
    assert len(rig.device.read_config(32, 1)) == 1


@pytest.mark.parametrize("sector", [0, 5, SECTORS - 1])
def test_a_sector_is_read_through_a_ring(rig: Rig, tmp_path: Path, sector: int) -> None:
    rig.drive(0)
    (queue,) = rig.queues(0)
    os.pwrite(rig.ram, struct.pack("<IIQ", 0, 0, sector), HEADER_GPA)
    chain = ((HEADER_GPA, 16, 1, 1), (DATA_GPA, 512, 3, 2), (STATUS_GPA, 1, 2, 0))  # address, length, flags, next
    os.pwrite(rig.ram, b"".join(struct.pack("<QIHH", *part) for part in chain), queue.descriptors)
    os.pwrite(rig.ram, struct.pack("<HHH", 0, 1, 0), queue.driver_area)  # one chain available, head 0
    os.eventfd_write(queue.kick_fd, 1)
    used = struct.pack("<HHII", 0, 1, 0, 513)  # the backend may interrupt for nothing, too
    while os.pread(rig.ram, len(used), queue.device_area) != used:
        ready, _, _ = select.select([queue.call_fd], [], [], 20)
        assert ready, "the backend never interrupted"
        os.eventfd_read(queue.call_fd)
    assert os.pread(rig.ram, 1, STATUS_GPA) == b"\0"
    image = (tmp_path / "disk.img").read_bytes()
    assert os.pread(rig.ram, 512, DATA_GPA) == image[512 * sector :][:512]
    if rig.log is not None:
        marked = {page for page in range(256) if rig.log.map[page // 8] >> page % 8 & 1}
        assert {gpa >> 12 for gpa in (DATA_GPA, STATUS_GPA, queue.device_area)} <= marked


def test_its_end_is_noticed(rig: Rig, export: str) -> None:
    rig.device.prepare()
    rig.device.fail("killed")
    assert rig.broken == ["killed"]
    rig.device.attach(connect(export))
    rig.drive(0)
    assert rig.broken == ["killed"]
