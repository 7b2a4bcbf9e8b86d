"""The command lines of the user's document, word for word; where the document and other sources differ, it wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.config_lines import Lines
from vmm_core.config import parse
from vmm_core.config.records import BlkDevice, ChardevConfig, MonitorConfig, VmConfig
from vmm_core.errors import VmmError, describe

LIGHTWEIGHT = """
    -kernel /path/to/vmlinux.bin
    -append console=ttyS0 root=/dev/vda rw reboot=k panic=1
    -drive file=/home/rootfs.ext4,id=rootfs,readonly=false
    -device virtio-blk-device,drive=rootfs
    -qmp unix:/tmp/stratovirt.socket,server,nowait
    -serial stdio
"""
STANDARD = """
    -machine virt
    -kernel /path/to/vmlinux.bin
    -append console=ttyAMA0 root=/dev/vda rw reboot=k panic=1
    -drive file=/path/to/edk2/code_storage_file,if=pflash,unit=0,readonly=true
    -drive file=/path/to/edk2/data_storage_file,if=pflash,unit=1,
    -drive file=/home/rootfs.ext4,id=rootfs,readonly=false
    -device virtio-blk-device,drive=rootfs,bus=pcie.0,addr=0x1
    -qmp unix:/tmp/stratovirt.socket,server,nowait
    -serial stdio
"""


@pytest.fixture
def lines(tmp_path: Path) -> Lines:
    return Lines(tmp_path)


def placed(text: str, directory: Path) -> list[str]:
    """Let the document's files stand in `directory`."""
    (directory / "rootfs.ext4").touch()
    (directory / "vmlinux.bin").touch()
    return text.replace("/path/to/", f"{directory}/").replace("/home/", f"{directory}/").split()


def refusal(text: str, directory: Path) -> str:
    with pytest.raises(VmmError) as caught:
        parse(placed(text, directory))
    return describe(caught.value)


def test_the_minimal_lightweight_example(tmp_path: Path) -> None:
    config = parse(placed(LIGHTWEIGHT, tmp_path))
    assert isinstance(config, VmConfig)
    assert config.boot.kernel == str(tmp_path / "vmlinux.bin")
    assert config.boot.append == "console=ttyS0 root=/dev/vda rw reboot=k panic=1"
    assert [(drive.id, drive.path, drive.readonly) for drive in config.drives] == [
        ("rootfs", str(tmp_path / "rootfs.ext4"), False)
    ]
    assert config.devices == (BlkDevice(driver="virtio-blk-device", drive="rootfs"),)
    assert config.monitors == (MonitorConfig(kind="unix", path="/tmp/stratovirt.socket"),)
    assert config.chardevs == (ChardevConfig(id="serial_chardev", kind="stdio"),)
    assert config.serial == "serial_chardev"


def test_the_minimal_standard_example_is_well_formed_and_its_machine_refused_by_name(tmp_path: Path) -> None:
    message = refusal(STANDARD, tmp_path)
    assert message == "machine type 'virt' and virtio-blk-pci are not built yet"


def test_the_standard_disk_of_the_example_is_the_pci_device(tmp_path: Path) -> None:
    assert "needs bus= and addr=" in refusal(STANDARD.replace(",addr=0x1", ""), tmp_path)
    assert "slot 0 to 31" in refusal(STANDARD.replace("addr=0x1", "addr=0x20"), tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "-drive id=a,file=@a.img,readonly=off,direct=off,throttling.iops-total=200,if=none "
        "-object iothread,id=iothread1 -device virtio-blk-device,drive=a,iothread=iothread1,serial=serial_num",
        "-object iothread,id=iothread1 -object iothread,id=iothread2",
        "-chardev socket,id=chardev_id,path=/tmp/path,server,nowait -serial chardev:chardev_id",
        "-chardev stdio,id=chardev_id -serial chardev:chardev_id",
        "-smp 8,maxcpus=8,sockets=2,dies=1,clusters=1,cores=2,threads=2",
        "-m 1024",
        "-mem-path /page/to/hugepages",
        "-machine MicroVm,dump-guest-core=off,mem-share=on",
        "-name VMname -D /tmp/path/to/logfile -disable-seccomp",
        "-serial pty -daemonize -pidfile @pidfile",
    ],
)
def test_documented_forms_of_what_is_built_are_taken(lines: Lines, text: str) -> None:
    assert lines.good(text)


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        (
            "-netdev tap,id=netdevid,ifname=host_dev_name,vhostfd=2 "
            "-device virtio-net-device,netdev=netdevid,id=netid,iothread=iothread1,mac=12:34:56:78:9A:BC",
            "-netdev and virtio-net-device are",
        ),
        (
            "-netdev tap,id=netdevid,ifname=host_dev_name,vhost=on,vhostfd=2 "
            "-device virtio-net-device,netdev=netdevid,id=netid",
            "-netdev and virtio-net-device are",
        ),
        (
            "-machine q35 -netdev tap,id=n,ifname=t,vhost=on -device virtio-net-pci,netdev=n,id=netid,bus=pcie.0,"
            "addr=0x2.0x0,multifunction=on,iothread=iothread1,mac=12:34:56:78:9A:BC",
            "machine type 'q35', -netdev and virtio-net-pci are",
        ),
        (
            "-device virtio-serial-device -chardev socket,path=/tmp/s,id=virtioconsole1,server,nowait "
            "-device virtconsole,chardev=virtioconsole1,id=console_id",
            "virtio-serial-device and virtconsole are",
        ),
        (
            "-machine q35 -device virtio-serial-pci,bus=pcie.0,addr=0x1.0x0,multifunction=on,id=virtio-serial0",
            "machine type 'q35' and virtio-serial-pci are",
        ),
        ("-device vhost-vsock-device,id=vsock_id,guest-cid=3", "vhost-vsock-device is"),
        (
            "-machine q35 -device vhost-vsock-pci,id=vsock_id,guest-cid=3,bus=pcie.0,addr=0x1.0x0,multifunction=on",
            "machine type 'q35' and vhost-vsock-pci are",
        ),
        (
            "-device virtio-balloon-device,deflate-on-oom=true,free-page-reporting=false",
            "virtio-balloon-device is",
        ),
        (
            "-object rng-random,id=objrng0,filename=/path/to/random_file "
            "-device virtio-rng-device,rng=objrng0,max-bytes=1234,period=1000",
            "object rng-random and virtio-rng-device are",
        ),
        ("-machine virt -vnc 0.0.0.0:11", "machine type 'virt' and -vnc are"),
        (
            "-machine virt -device nec-usb-xhci,id=xhci,bus=pcie.0,addr=0xa.0x0 -device usb-bkd,id=kbd "
            "-device usb-tablet,id=tablet",
            "machine type 'virt', nec-usb-xhci, usb-kbd and usb-tablet are",
        ),
        (
            "-machine q35 -device virtio-gpu-pci,id=XX,bus=pcie.0,addr=0x2.0x0,max_outputs=1,edid=true,xres=800,"
            "yres=600,max_hostmem=268435456",
            "machine type 'q35' and virtio-gpu-pci are",
        ),
    ],
)
def test_documented_forms_of_what_is_not_built_are_refused_by_name(lines: Lines, text: str, refused: str) -> None:
    assert lines.bad(f"-object iothread,id=iothread1 {text}") == f"{refused} not built yet"
