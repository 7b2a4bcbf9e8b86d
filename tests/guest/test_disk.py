"""What a guest writes to its disk is what it reads, however the disk is served."""

from __future__ import annotations

import hashlib

import pytest

from tests.guest.console import Console
from tests.guest.harness import Disk, Guest, Plan, empty_disk, start

MEGABYTE = 1 << 20


def verify(console: Console, path: str, seconds: int, threads: int, mode: str) -> str:
    """Run the verified load in the guest; returns its closing line."""
    output = console.check(f"blkverify {path} 32 {seconds} {threads} {mode}", seconds + 60)
    assert output.startswith("VERIFY ok"), output
    return output


WAYS = ["direct=on,aio=native", "direct=on,aio=io_uring", "direct=off,aio=threads", "direct=off,aio=off"]


@pytest.mark.rig
@pytest.mark.parametrize(("queues", "packed"), [(1, "on"), (2, "on"), (2, "off")])
@pytest.mark.parametrize("drive", WAYS)
def test_random_io_is_verified_however_the_image_is_opened(
    disk_plan: Plan, drive: str, queues: int, packed: str
) -> None:
    disk_plan.cpus = queues
    image = empty_disk(disk_plan.directory / "data", 32 * MEGABYTE)
    disk_plan.disks.append(Disk(image, drive, f"num-queues={queues},packed={packed}"))
    with start(disk_plan) as guest:
        console = guest.wait_ready(120).console
        assert console.check("ls /sys/block/vdb/mq | wc -l") == str(queues)
        assert console.check("cut -c 35 /sys/block/vdb/device/features") == ("1" if packed == "on" else "0")
        verify(console, "/dev/vdb", 3, 4, "direct")
        verify(console, "/dev/vdb", 2, 2, "cached")
        assert guest.power_off() == 0


@pytest.mark.rig
def test_what_the_guest_wrote_is_in_the_image(disk_plan: Plan) -> None:
    image = empty_disk(disk_plan.directory / "data", 8 * MEGABYTE)
    disk_plan.disks.append(Disk(image, "direct=off,aio=io_uring"))
    with start(disk_plan) as guest:
        console = guest.wait_ready().console
        console.check("dd if=/dev/urandom of=/dev/vdb bs=1M count=8 2>/dev/null; sync")
        told = console.check("sha256sum </dev/vdb").split()[0]
        assert guest.power_off() == 0
    assert hashlib.sha256(image.read_bytes()).hexdigest() == told


def test_the_root_file_system_carries_a_verified_load(guest: Guest) -> None:
    verify(guest.console, "/root/file", 3, 2, "direct")
    verify(guest.console, "/root/file", 3, 2, "cached")
    guest.console.check("cd /usr/share/stratocell && sha256sum -c SHA256SUMS")
    assert guest.power_off() == 0


def test_a_readonly_disk_can_be_read_and_not_written(disk_plan: Plan) -> None:
    image = disk_plan.directory / "data"
    content = hashlib.sha256(b"read only").digest() * 32768
    image.write_bytes(content)
    disk_plan.disks.append(Disk(image, "readonly=on,direct=off,aio=io_uring"))
    with start(disk_plan) as guest:
        console = guest.wait_ready().console
        assert console.check("cat /sys/block/vdb/ro") == "1"
        assert console.check("sha256sum </dev/vdb").split()[0] == hashlib.sha256(content).hexdigest()
        assert console.run("dd if=/dev/zero of=/dev/vdb bs=4k count=1 conv=fsync").status != 0
        assert guest.power_off() == 0
    assert image.read_bytes() == content


def test_discarded_blocks_are_given_back_to_the_host(disk_plan: Plan) -> None:
    image = disk_plan.directory / "data"
    image.write_bytes(b"\xaa" * (16 * MEGABYTE))
    disk_plan.disks.append(Disk(image, "direct=off,aio=io_uring,discard=unmap"))
    with start(disk_plan) as guest:
        console = guest.wait_ready().console
        console.check("blkdiscard -o 4194304 -l 8388608 /dev/vdb; sync")
        assert guest.power_off() == 0
    assert image.stat().st_blocks * 512 <= 9 * MEGABYTE
    assert image.read_bytes()[4 * MEGABYTE : 12 * MEGABYTE] == bytes(8 * MEGABYTE)


def test_a_disk_on_its_own_iothread_works_like_any_other(disk_plan: Plan) -> None:
    image = empty_disk(disk_plan.directory / "data", 32 * MEGABYTE)
    disk_plan.extra += ["-object", "iothread,id=io1"]
    disk_plan.disks.append(Disk(image, "direct=off,aio=io_uring", "iothread=io1,queue-size=64"))
    with start(disk_plan) as guest:
        verify(guest.wait_ready().console, "/dev/vdb", 3, 4, "direct")
        assert guest.power_off() == 0


@pytest.mark.rig
@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_ten_minutes_of_mixed_load_lose_no_interrupt(disk_plan: Plan) -> None:
    disk_plan.cpus = 2
    image = empty_disk(disk_plan.directory / "data", 64 * MEGABYTE)
    disk_plan.disks.append(Disk(image, "direct=off,aio=io_uring", "num-queues=2"))
    with start(disk_plan) as guest:
        console = guest.wait_ready().console
        loads = "blkverify /dev/vdb 64 600 8 direct & blkverify /root/file 24 600 2 cached & wait"
        output = console.check(loads, 900)
        assert output.count("VERIFY ok") == 2, output
        assert "blocked for more than" not in console.check("dmesg")
        assert guest.power_off() == 0
