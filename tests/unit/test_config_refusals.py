"""What is not built is checked in full, then refused by its name in one line; nothing is ignored silently."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.unit.config_lines import Lines
from vmm_core.config import parse
from vmm_core.config.catalogue import bodies
from vmm_core.config.devices import FAMILIES, family
from vmm_core.config.options import BY_NAME
from vmm_core.config.records import VmConfig
from vmm_core.errors import VmmError, describe


@pytest.fixture
def lines(tmp_path: Path) -> Lines:
    return Lines(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-machine none", "machine type 'none' is not built yet"),
        ("-machine q35", "machine type 'q35' is not built yet"),
        ("-machine VIRT", "machine type 'virt' is not built yet"),
        ("-incoming file:/snapshot,mapped=true", "-incoming is not built yet"),
        ("-incoming tcp:1.2.3.4:5", "-incoming is not built yet"),
        ("-numa dist,src=0,dst=1,val=20", "-numa is not built yet"),
        ("-trace file=/x -battery", "-trace and -battery are not built yet"),
        ("-global pcie-root-port.fast-unplug=1", "-global is not built yet"),
        ("-hardware-signature 1", "-hardware-signature is not built yet"),
        ("-smbios type=1,uuid=12345678-1234-1234-1234-123456789abc", "-smbios is not built yet"),
        ("-no-shutdown", "-no-shutdown is not built yet"),
        ("-windows_emu_pid 12", "-windows_emu_pid is not built yet"),
        ("-cameradev demo,id=c", "-cameradev is not built yet"),
        ("-chardev redirect-to-log,id=c", "chardev redirect-to-log is not built yet"),
        ("-object memory-backend-memfd,id=m,size=1G", "object memory-backend-memfd is not built yet"),
        ("-object tls-creds-x509,id=t,dir=/x", "object tls-creds-x509 is not built yet"),
        ("-object authz-simple,id=t,identity=x", "object authz-simple is not built yet"),
        ("-device ramfb,id=r", "ramfb is not built yet"),
    ],
)
def test_each_is_named(lines: Lines, text: str, message: str) -> None:
    assert lines.bad(text) == message


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("-netdev tap,id=n", "a tap needs ifname, fd or fds"),
        ("-netdev tap,id=n,fd=3,fds=4:5", "exclude each other"),
        ("-netdev tap,id=n,fds=4:4", "descriptor numbers"),
        ("-netdev tap,id=n,ifname=t,queues=17", "from 1 to 16"),
        ("-netdev tap,id=n,fds=" + ":".join(map(str, range(3, 20))), "at most 16 queue pairs"),
        ("-netdev tap,id=n,fd=3,path=/dev/tap1", "path needs ifname"),
        ("-netdev tap,id=n,ifname=t,vhost=on,macnat=on", "exclude each other"),
        ("-netdev vhost-user,id=n,chardev=c,vhost=on", "unexpected argument 'vhost'"),
        ("-netdev vhost-user,id=n,chardev=c", "not found or is in use"),
        ("-netdev tap,id=n,ifname=t tap,id=n,ifname=u", "Netdev n has been added"),
        ("-device virtio-net-device,netdev=n", 'Netdev "n" not found or is in use'),
        ("-device virtio-net-device,netdev=n,mac=12:34:56:78:9a", "MAC address"),
        ("-device virtio-net-device,netdev=n,mac=ff:ff:ff:ff:ff:ff", "unicast MAC address"),
        ("-device virtio-net-device,netdev=n,queue-size=128", "from 256 to 4096"),
        ("-device vhost-vsock-device", "required argument 'guest-cid'"),
        ("-device vhost-vsock-device,guest-cid=2", "from 3 to 4294967295"),
        ("-device virtio-serial-device,max-ports=32", "from 1 to 31"),
        ("-device virtio-serial-device -device virtio-serial-device", "only one virtio-serial"),
        ("-chardev pty,id=p -device virtserialport,chardev=p,nr=0", "reserved for virtconsole"),
        ("-chardev socket,id=p,path=/p -device virtconsole,chardev=p", "needs server and nowait"),
        ("-device virtio-balloon-device,deflate-on-oom=on", "expected one of true, false"),
        ("-device virtio-balloon-device -device virtio-balloon-device", "only one balloon"),
        ("-mem-path /huge -device virtio-balloon-device", "exclude each other"),
        ("-device virtio-rng-device,rng=r", 'Object "r" of type rng-random not found'),
        ("-object iothread,id=r -device virtio-rng-device,rng=r", "of type rng-random not found"),
        ("-device virtio-rng-device,rng=r,max-bytes=10", "give both or neither"),
        ("-device virtio-rng-device,rng=r,max-bytes=63,period=1000", "from 64 to 1000000000"),
        ("-device virtio-rng-device,rng=r,max-bytes=1000000001,period=1000", "from 64 to 1000000000"),
        ("-chardev socket,id=c,path=/c -device vhost-user-fs-device,chardev=c,tag=t", "mem-share=on"),
        ("-device usb-kbd,id=k", "needs a standard machine"),
        ("-machine q35 -device usb-kbd -device usb-bkd", "only one USB keyboard"),
        ("-machine q35 -device virtio-gpu-pci,bus=pcie.0,addr=1,max_outputs=17", "from 1 to 16"),
        ("-machine q35 -device nec-usb-xhci,bus=pcie.0", "required argument 'addr'"),
        ("-machine q35 -device vfio-pci,bus=pcie.0,addr=1", "either host or sysfsdev"),
        ("-machine q35 -device vfio-pci,bus=pcie.0,addr=1,host=1a:00.z", "a PCI address"),
        ("-machine q35 -device pcie-root-port,bus=pcie.0,addr=1,port=0x100", "from 0 to 255"),
        (
            "-machine q35 -device vhost-vsock-pci,guest-cid=3,bus=pcie.0,addr=1 "
            "-device vhost-vsock-pci,guest-cid=4,bus=pcie.0,addr=0x1.0",
            "is already taken",
        ),
        ("-machine q35 -device virtio-balloon-device", "it needs bus= and addr="),
        ("-vnc localhost:1", "IPv4:N"),
        ("-vnc 0.0.0.0:59636", "from 0 to 59635"),
        ("-numa node,nodeid=0,cpus=3-1,memdev=m", "increasing numbers"),
        ("-numa node,nodeid=0,cpus=0-1:1,memdev=m", "increasing numbers"),
        ("-numa dist,src=0,dst=1,val=10", "more than 10"),
        ("-smbios type=5", "expected one of 0, 1, 2, 3, 4, 17"),
        ("-smbios type=1,uuid=1", "a UUID"),
        ("-incoming exec:cat", "expected file:DIR"),
        ("-trace", "requires a value"),
        ("-trace type=none", "expected one of all"),
        ("-windows_emu_pid 0", "from 1 to"),
        ("-object memory-backend-file,id=m,size=1G", "required argument 'mem-path'"),
        ("-object rng-random,id=r", "required argument 'filename'"),
    ],
)
def test_its_syntax_and_ranges_are_checked_first(lines: Lines, text: str, meaning: str) -> None:
    message = lines.bad(text)
    assert meaning in message
    assert "not built yet" not in message


def test_every_driver_of_the_directory_has_a_table_and_every_built_one_a_record() -> None:
    for name, module in FAMILIES.items():
        body = family(module).DEVICES[name]
        assert body.name == name
        assert body.built == (name in getattr(family(module), "RECORDS", {}))


def test_every_table_names_its_keys_once_and_explains_them() -> None:
    for option in BY_NAME.values():
        assert option.help
        for body in bodies(option):
            spellings = [name for key in body.keys for name in (key.name, *key.aliases)]
            assert len(spellings) == len(set(spellings)), body.name
            assert all(key.help and key.kind.expects for key in body.keys)
            assert not body.first or body.first in spellings


@pytest.mark.parametrize(("drives", "good"), [("readonly=on readonly=on", True), ("readonly=on readonly=off", False)])
def test_one_image_serves_two_drives_only_if_nobody_writes(lines: Lines, drives: str, good: bool) -> None:
    os.link(lines.path("a.img"), lines.path("hard.img"))
    first, second = drives.split()
    text = f"-drive file=@a.img,id=a,{first} file=@hard.img,id=b,{second}"
    if good:
        assert len(lines.good(text).drives) == 2
    else:
        assert "both must be readonly" in lines.bad(text)


def test_the_lightweight_machine_takes_six_disks(lines: Lines) -> None:
    def text(count: int) -> str:
        return " ".join(
            f"-drive file=@{name}.img,id={name} -device virtio-blk-device,drive={name}" for name in "abcdefg"[:count]
        )

    assert len(lines.good(text(6)).devices) == 6
    assert "at most 6 disks, not 7" in lines.bad(text(7))


def test_the_lightweight_machine_takes_two_cards_and_eleven_devices(lines: Lines) -> None:
    cards = " ".join(f"-netdev tap,id={n},ifname=t{n} -device virtio-net-device,netdev={n}" for n in "123")
    assert "at most 2 network cards, not 3" in lines.bad(cards)
    vsocks = " ".join(f"-device vhost-vsock-device,guest-cid={cid}" for cid in range(3, 15))
    assert "at most 11 virtio-mmio devices, not 12" in lines.bad(vsocks)


def test_a_standard_machine_takes_32_pci_devices(lines: Lines) -> None:
    devices = " ".join(
        f"-device vhost-vsock-pci,guest-cid={3 + n},bus=pcie.0,addr={n // 8}.{n % 8},multifunction=on"
        for n in range(33)
    )
    assert "at most 32 PCI devices" in lines.bad(f"-machine q35 {devices}")


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        (["-serial", "stdio"], "kernel file is required for microvm machine type, which is not provided"),
        (["-kernel", "@vmlinux.bin"], "Before Vm start, set a initrd or drive_file or vhost-user blk as rootfs"),
        (["-kernel", "@missing", "-serial", "pty"], "-kernel: cannot open"),
        (["-kernel", "/tmp", "-serial", "pty"], "is not a regular file"),
        (["-kernel", "@vmlinux.bin", "-initrd", "@missing"], "-initrd: cannot open"),
        (["-kernel", ""], "a path of 1 to 4096 bytes"),
        (["-kernel", "@vmlinux.bin", "-initrd", "/" + "x" * 255], "a path of 1 to 255 bytes"),
    ],
)
def test_what_it_boots_from_must_exist(lines: Lines, words: list[str], meaning: str) -> None:
    with pytest.raises(VmmError) as caught:
        parse([word.replace("@", f"{lines.directory}/") for word in words])
    assert meaning in describe(caught.value)


def test_a_test_machine_needs_neither_kernel_nor_disk(lines: Lines) -> None:
    config = parse(["-accel", "test", "-mod-test", lines.path("t.sock")])
    assert isinstance(config, VmConfig)
    assert config.test_socket == lines.path("t.sock")


def test_relative_paths_are_made_absolute_because_a_daemon_changes_its_directory(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(lines.directory)
    config = lines.good("-kernel vmlinux.bin -drive file=a.img,id=a -D vm.log -qmp unix:q.sock,server,nowait")
    assert config.monitors[0].path in (lines.path("q.sock"), "q.sock")  # the latter where the directory is too deep
    assert config.boot.kernel == lines.path("vmlinux.bin")
    assert config.drives[0].path == lines.path("a.img")
    assert config.log_path == lines.path("vm.log")


def test_a_current_directory_that_is_gone_is_a_clear_error(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = lines.directory / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert "cannot resolve the relative path 'vm.log'" in lines.bad("-D vm.log")


def test_an_error_in_a_value_is_a_chain_of_causes(lines: Lines) -> None:
    assert lines.bad("-smp 0") == (
        'Add args "0" error.\n\nCaused by:\n'
        "    -smp: invalid value '0' for 'cpus': expected a whole number from 1 to 254"
    )
