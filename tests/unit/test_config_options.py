"""Every option's values: what is taken, what it becomes, what is refused (interface facts 1.4-1.9)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.config_lines import Lines
from vmm_core.config.records import GIB, KIB, MIB, BlkDevice, CpuTopology, VhostUserBlkDevice

DISK = "-drive file=@a.img,id=a -device virtio-blk-device,drive=a"


@pytest.fixture
def lines(tmp_path: Path) -> Lines:
    return Lines(tmp_path)


def field(config: object, path: str) -> object:
    """Follow `memory.size` or `drives.0.id`."""
    for name in path.split("."):
        config = config[int(name)] if name.isdigit() else getattr(config, name)  # type: ignore[index]
    return config


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("", "name", ""),
        ("-name vm-1", "name", "vm-1"),
        ("", "machine.type", "microvm"),
        ("-machine microvm", "machine.type", "microvm"),
        ("-machine MicroVm", "machine.type", "microvm"),
        ("-machine type=MICROVM,mem-share=on", "machine.mem_share", True),
        ("-machine mem-share=yes", "machine.mem_share", True),
        ("-machine microvm,dump-guest-core=off", "machine.dump_guest_core", False),
        ("-machine microvm,usb=off", "machine.type", "microvm"),
        ("", "machine.accel", "auto"),
        ("-machine microvm,accel=kvm", "machine.accel", "kvm"),
        ("-machine microvm,accel=kvm:tcg", "machine.accel", "auto"),
        ("-accel tcg", "machine.accel", "tcg"),
        ("-accel tcg -machine microvm,accel=kvm", "machine.accel", "tcg"),
        ("-accel kvm:tcg", "machine.accel", "auto"),
        ("-accel auto", "machine.accel", "auto"),
        ("-accel test -mod-test @t.sock", "machine.accel", "test"),
        ("-cpu host", "cpus.cpus", 1),
        ("-cpu host,pmu=off,sve=off,kvm-steal-time=off", "cpus.cpus", 1),
        ("", "memory.size", 256 * MIB),
        ("-m 128", "memory.size", 128 * MIB),
        ("-m 512m", "memory.size", 512 * MIB),
        ("-m 2G", "memory.size", 2 * GIB),
        ("-m 512g", "memory.size", 512 * GIB),
        ("-m 131072K", "memory.size", 131072 * KIB),
        ("-m size=1G,maxmem=2G", "memory.max_size", 2 * GIB),
        ("-m 1G", "memory.max_size", 1 * GIB),
        ("-mem-path /dev/hugepages", "memory.path", "/dev/hugepages"),
        ("-mem-prealloc", "memory.prealloc", True),
        ("-append console=ttyS0", "boot.append", "console=ttyS0"),
        ("-S", "freeze", True),
        ("-freeze", "freeze", True),
        ("-disable-seccomp", "seccomp", False),
        ("-D", "log_path", None),
        ("-D /tmp/vm.log", "log_path", "/tmp/vm.log"),
        ("-daemonize -serial pty", "daemonize", True),
        ("-daemonize -serial pty -pidfile @pid", "daemonize", True),
        ("-qmp unix:/run/q,server,nowait", "monitors.0.path", "/run/q"),
        ("-qmp nowait=on,address=unix:/run/q,server", "monitors.0.path", "/run/q"),
        ("-qmp unix:/run/a=b,server,nowait,", "monitors.0.path", "/run/a=b"),
        ("-qmp tcp:127.0.0.1:4444,server,nowait", "monitors.0.port", 4444),
        ("-qmp tcp:[::1]:4444,server,nowait", "monitors.0.host", "::1"),
        ("-object iothread,id=t -qmp unix:/run/q,server,nowait,iothread=t", "monitors.0.kind", "unix"),
        ("-chardev socket,id=m,path=/run/m,server,nowait -mon chardev=m,mode=control", "monitors.0.path", "/run/m"),
        ("-chardev socket,id=m,path=/m,server,nowait -mon chardev=m,id=x,mode=control", "monitors.0.kind", "unix"),
        ("-serial stdio", "serial", "serial_chardev"),
        ("-serial pty", "chardevs.0.kind", "pty"),
        ("-serial file,path=/tmp/log", "chardevs.0.path", "/tmp/log"),
        ("-serial socket,path=/tmp/s,server,nowait", "chardevs.0.nowait", True),
        ("-serial socket,port=4000,server,nowait", "chardevs.0.host", "0.0.0.0"),
        ("-serial socket,port=4000,host=::1,server,nowait", "chardevs.0.host", "::1"),
        ("-chardev pty,id=p -serial chardev:p", "serial", "p"),
        ("-chardev stdio,id=p -serial chardev:p,", "serial", "p"),
        ("-chardev file,path=/tmp/x,id=p -serial chardev:p", "chardevs.0.kind", "file"),
        ("-object iothread,id=t", "iothreads.0.id", "t"),
    ],
)
def test_an_option_becomes_its_field(lines: Lines, text: str, path: str, value: object) -> None:
    assert field(lines.good(text), path) == value


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("readonly=on", "readonly", True),
        ("readonly=false", "readonly", False),
        ("readonly=no", "readonly", False),
        ("", "direct", True),
        ("", "aio", "native"),
        ("direct=off", "aio", "off"),
        ("direct=off,aio=threads", "aio", "threads"),
        ("aio=io_uring", "aio", "io_uring"),
        ("direct=off,aio=io_uring", "aio", "io_uring"),
        ("throttling.iops-total=200", "iops_total", 200),
        ("throttling.iops-total=0", "iops_total", 0),
        ("throttling.iops-total=1000000", "iops_total", 1_000_000),
        ("if=none", "interface", "none"),
        ("media=cdrom", "media", "cdrom"),
        ("discard=unmap", "discard", True),
        ("discard=ignore", "discard", False),
        ("discard=on", "discard", True),
        ("detect-zeroes=unmap", "detect_zeroes", "unmap"),
        ("format=raw", "format", "raw"),
    ],
)
def test_a_drives_keys_become_its_fields(lines: Lines, text: str, path: str, value: object) -> None:
    config = lines.good(f"-drive file=@a.img,id=a,{text} -device virtio-blk-device,drive=a")
    assert getattr(config.drives[0], path) == value


def test_a_disk_takes_its_keys_and_needs_no_id(lines: Lines) -> None:
    config = lines.good(
        "-object iothread,id=t -drive file=@a.img,id=a "
        "-device virtio-blk-device,drive=a,iothread=t,serial=abc,num-queues=4,queue-size=1024,packed=off,bootindex=1"
    )
    expected = BlkDevice(
        driver="virtio-blk-device",
        drive="a",
        iothread="t",
        serial="abc",
        num_queues=4,
        queue_size=1024,
        packed=False,
        bootindex=1,
    )
    assert config.devices == (expected,)
    assert lines.good(DISK).devices == (BlkDevice(driver="virtio-blk-device", drive="a"),)


def test_a_foreign_vhost_user_disk_takes_a_connecting_socket(lines: Lines) -> None:
    config = lines.good(
        "-chardev socket,id=c,path=/run/blk.sock -device vhost-user-blk-device,id=b,chardev=c,num-queues=2"
    )
    expected = VhostUserBlkDevice(driver="vhost-user-blk-device", id="b", chardev="c", num_queues=2)
    assert config.devices == (expected,)


@pytest.mark.parametrize(
    ("text", "topology"),
    [
        ("1", (1, 1, 1, 1, 1, 1, 1)),
        ("254", (254, 254, 1, 1, 1, 254, 1)),
        ("cpus=8", (8, 8, 1, 1, 1, 8, 1)),
        ("8,maxcpus=8,sockets=2,cores=2,threads=2", (8, 8, 2, 1, 1, 2, 2)),
        ("4,maxcpus=8", (4, 8, 1, 1, 1, 8, 1)),
        ("8,sockets=2", (8, 8, 2, 1, 1, 4, 1)),
        ("8,cores=4", (8, 8, 2, 1, 1, 4, 1)),
        ("8,sockets=1,cores=4", (8, 8, 1, 1, 1, 4, 2)),
        ("4,sockets=2,cores=2,threads=2", (4, 8, 2, 1, 1, 2, 2)),
        ("8,dies=2,clusters=2", (8, 8, 1, 2, 2, 2, 1)),
        ("maxcpus=6,cpus=2,threads=2", (2, 6, 1, 1, 1, 3, 2)),
    ],
)
def test_the_topology_is_derived_from_what_is_given(lines: Lines, text: str, topology: tuple[int, ...]) -> None:
    names = ("cpus", "max_cpus", "sockets", "dies", "clusters", "cores", "threads")
    assert lines.good(f"-smp {text}").cpus == CpuTopology(**dict(zip(names, topology, strict=True)))


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("-machine pc", "expected one of none, microvm, q35, virt"),
        ("-machine microvm,mem-share=1", "expected one of on, off"),
        ("-machine microvm,mem-share", "a value is required for 'mem-share'"),
        ("-machine microvm,type=microvm", "cannot be used multiple times"),
        ("-machine microvm,colour=red", "unexpected argument 'colour'"),
        ("-machine microvm,,usb=off", "a parameter is empty"),
        ("-machine ,", "a parameter is empty"),
        ("-machine =microvm", "a value without a name"),
        ("-accel xen", "expected one of kvm, kvm:tcg, tcg, test, auto"),
        ("-accel test", "-mod-test and accel=test need each other"),
        ("-mod-test @t.sock", "-mod-test and accel=test need each other"),
        ("-cpu max", "expected one of host"),
        ("-smp 0", "from 1 to 254"),
        ("-smp 255", "from 1 to 254"),
        ("-smp 1_0", "from 1 to 254"),
        ("-smp +1", "from 1 to 254"),
        ("-smp \u0661", "from 1 to 254"),
        ("-smp 0x2", "from 1 to 254"),
        ("-smp maxcpus=2", "required argument 'cpus'"),
        ("-smp 4,maxcpus=2", "does not hold"),
        ("-smp 8,maxcpus=8,sockets=3", "must be equal to maxcpus"),
        ("-smp 8,sockets=0", "from 1 to 254"),
        ("-smp 200,sockets=100,cores=100,threads=100", "does not hold"),
        ("-m 127", "from 128 MiB to 512 GiB"),
        ("-m 513G", "from 128 MiB to 512 GiB"),
        ("-m 1T", "from 128 MiB to 512 GiB"),
        ("-m 256\u212a", "from 128 MiB to 512 GiB"),
        ("-m 1.5G", "from 128 MiB to 512 GiB"),
        ("-m G", "from 128 MiB to 512 GiB"),
        ("-m 99999999999999999999999", "from 128 MiB to 512 GiB"),
        ("-m 2G,maxmem=1G", "greater than maxmem"),
        ("-m 131073K", "multiple of 4 KiB"),
        ("-mem-path hugepages", "an absolute path"),
        ("-qmp unix:/run/q", "required argument 'server'"),
        ("-qmp unix:/run/q,server", "required argument 'nowait'"),
        ("-qmp unix:/run/q,server=off,nowait", "server cannot be off"),
        ("-qmp server,nowait", "required argument 'address'"),
        ("-qmp unix:,server,nowait", "a path of 1 to 107 bytes"),
        ("-qmp tcp:localhost:4444,server,nowait", "an IP address"),
        ("-qmp tcp:127.0.0.1:0,server,nowait", "from 1 to 65535"),
        ("-qmp tcp:127.0.0.1,server,nowait", "an IP address|tcp:IP:PORT"),
        ("-qmp tcp:0127.0.0.1:44,server,nowait", "an IP address"),
        ("-qmp vsock:3:4,server,nowait", "expected unix:PATH"),
        ("-qmp unix:/run/q,server,nowait,iothread=t", 'iothread "t" not found'),
        ("-mon chardev=m,mode=control", 'Chardev "m" not found or is in use'),
        ("-mon chardev=m", "required argument 'mode'"),
        ("-mon chardev=m,mode=readline", "expected one of control"),
        ("-chardev pty,id=m -mon chardev=m,mode=control", "must be a socket"),
        ("-chardev socket,id=m,path=/m -mon chardev=m,mode=control", "needs server and nowait"),
        ("-chardev socket,id=m,path=/m,server,nowait -qmp unix:/m,server,nowait", "asked for twice"),
        ("-serial chardev:none", 'Chardev "none" not found or is in use'),
        ("-serial chardev:", "1 to 255 printable characters"),
        ("-serial null", "expected one of stdio, pty, file, socket"),
        ("-serial file", "required argument 'path'"),
        ("-serial socket,server,nowait", "needs a path or a port"),
        ("-serial socket,path=/s", "needs server and nowait"),
        ("-serial socket,path=/s,port=1,server,nowait", "either a path or a host and port"),
        ("-serial socket,port=65536,server,nowait", "from 1 to 65535"),
        ("-serial stdio,id=x", "unexpected argument 'id'"),
        ("-chardev stdio", "required argument 'id'"),
        ("-chardev stdio,id=", "1 to 255 printable characters"),
        ("-chardev pty,id=a -chardev pty,id=a", "Chardev a has been added"),
        ("-chardev pty,id=" + "x" * 256, "1 to 255 printable characters"),
        ("-chardev socket,id=a,path=/" + "x" * 107, "a path of 1 to 107 bytes"),
        ("-chardev stdio,id=a -serial stdio", "Can't set multiple devices redirected to stdio"),
        ("-daemonize -serial stdio", "-daemonize"),
        ("-pidfile @pid", "-pidfile must be used with -daemonize together."),
        ("-daemonize -serial pty -pidfile @a.img", "Pidfile path is existed yet."),
        ("-object thread,id=a", "expected one of iothread"),
        ("-object iothread", "required argument 'id'"),
        ("-object iothread,id=a -object iothread,id=a", "Object a has been added"),
        (" ".join(f"-object iothread,id=t{index}" for index in range(9)), "at most 8 iothreads"),
        ("-hardware-signature 4294967296", "from 0 to 4294967295"),
    ],
)
def test_a_wrong_value_says_what_is_allowed(lines: Lines, text: str, meaning: str) -> None:
    message = lines.bad(text)
    assert any(part in message for part in meaning.split("|"))


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("id=a", "required argument 'file'"),
        ("file=@a.img", "required argument 'id'"),
        ("file=@a.img,id=a,readonly=maybe", "expected one of on, off"),
        ("file=@a.img,id=a,readonly", "a value is required for 'readonly'"),
        ("file=@a.img,id=a,direct=off,aio=native", "aio=native needs direct=on"),
        ("file=@a.img,id=a,aio=off", "aio=off needs direct=off"),
        ("file=@a.img,id=a,aio=posix", "expected one of off, native, io_uring, threads"),
        ("file=@a.img,id=a,throttling.iops-total=1000001", "from 0 to 1000000"),
        ("file=@a.img,id=a,throttling.iops-total=-1", "from 0 to 1000000"),
        ("file=@a.img,id=a,if=virtio", "expected one of none, pflash"),
        ("file=@a.img,id=a,unit=0", "unit is for if=pflash only"),
        ("file=@a.img,if=pflash", "if=pflash needs unit"),
        ("file=@a.img,if=pflash,unit=2", "from 0 to 1"),
        ("file=@a.img,if=pflash,unit=0", "needs a standard machine"),
        ("file=@a.img,if=pflash,unit=0,format=qcow2", "format=raw only"),
        ("file=@a.img,id=a,format=qcow2", "format=raw only"),
        ("file=@a.img,id=a,l2-cache-size=1M", "for format=qcow2 only"),
        ("file=@a.img,id=a,format=qcow2,l2-cache-size=33M", "to 32 MiB"),
        ("file=@a.img,id=a,media=tape", "expected one of disk, cdrom"),
        ("file=@a.img,id=a,discard=maybe", "expected one of unmap, ignore"),
        ("file=@a.img,id=a,file=@b.img", "'file' cannot be used multiple times"),
        ("file=@missing.img,id=a", "No such file or directory"),
        ("file=/dev/null,id=a", "neither a regular file nor a block device"),
        ("file=/tmp,id=a", "neither a regular file nor a block device"),
        ("file=/" + "x" * 256 + ",id=a", "at most 255 characters"),
        ("file=@a.img,id=a file=@b.img,id=a", "Drive a has been added"),
    ],
)
def test_a_wrong_drive_says_what_is_allowed(lines: Lines, text: str, meaning: str) -> None:
    assert meaning in lines.bad(f"-drive {text}")


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("virtio-blk-device", "required argument 'drive'"),
        ("virtio-blk-device,drive=b", 'Drive "b" not found or is in use'),
        ("virtio-blk-device,drive=a,serial=123456789012345678901", "1 to 20 printable characters"),
        ("virtio-blk-device,drive=a,iothread=t", 'iothread "t" not found'),
        ("virtio-blk-device,drive=a,num-queues=0", "from 1 to 32"),
        ("virtio-blk-device,drive=a,num-queues=33", "from 1 to 32"),
        ("virtio-blk-device,drive=a,queue-size=2", "power of two from 3 to 1024"),
        ("virtio-blk-device,drive=a,queue-size=300", "power of two from 3 to 1024"),
        ("virtio-blk-device,drive=a,queue-size=2048", "power of two from 3 to 1024"),
        ("virtio-blk-device,drive=a,bootindex=256", "from 0 to 255"),
        ("virtio-blk-device,drive=a,bus=pcie.0", "has no PCI bus"),
        ("virtio-blk-device,drive=a,addr=0x1", "has no PCI bus"),
        ("virtio-blk-device,drive=a,multifunction=on", "has no PCI bus"),
        ("virtio-blk-device,drive=a,addr=0x20", "slot 0 to 31"),
        ("virtio-blk-device,drive=a,addr=1.8", "function 0 to 7"),
        ("virtio-blk-device,drive=a,addr=0x", "slot 0 to 31"),
        ("virtio-blk-device,drive=a virtio-blk-device,drive=a", 'Drive "a" not found or is in use'),
        ("virtio-blk-device,drive=a,id=x vhost-user-blk-device,chardev=c,id=x", "Device x has been added"),
        ("virtio-blk-pci,drive=a,bus=pcie.0,addr=1", "use virtio-blk-device"),
        ("vhost-user-blk-device", "required argument 'chardev'"),
        ("vhost-user-blk-device,chardev=s", "must connect"),
        ("vhost-user-blk-device,chardev=p", "must be a socket with a path"),
        ("vhost-user-blk-device,chardev=c vhost-user-blk-device,chardev=c", "not found or is in use"),
        ("virtio-blk-ccw,drive=a", "Unsupported device: 'virtio-blk-ccw'"),
        (",", "Unsupported device"),
    ],
)
def test_a_wrong_device_says_what_is_allowed(lines: Lines, text: str, meaning: str) -> None:
    chardevs = "-chardev socket,id=c,path=/c -chardev socket,id=s,path=/s,server,nowait -chardev pty,id=p"
    assert meaning in lines.bad(f"{chardevs} -drive file=@a.img,id=a -device {text}")


def test_bootindexes_are_unique(lines: Lines) -> None:
    drives = "-drive file=@a.img,id=a file=@b.img,id=b"
    devices = "-device virtio-blk-device,drive=a,bootindex=1 virtio-blk-device,drive=b,bootindex=1"
    assert "bootindex 1 is already taken" in lines.bad(f"{drives} {devices}")
