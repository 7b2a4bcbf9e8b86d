"""Mutated command lines: always a clean error or a consistent configuration, never anything else."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.config_lines import Lines
from vmm_core.config import Info, parse
from vmm_core.config.catalogue import bodies
from vmm_core.config.options import OPTIONS
from vmm_core.config.records import GIB, MIB, BlkDevice, VhostUserBlkDevice, VmConfig
from vmm_core.errors import VmmError, describe

_DIRECTORY = tempfile.TemporaryDirectory()
_LINES = Lines(Path(_DIRECTORY.name))
_SEEDS = [
    _LINES.words(text)
    for text in (
        "-kernel @vmlinux.bin -append console=ttyS0 root=/dev/vda rw reboot=k panic=1 "
        "-drive file=@a.img,id=rootfs,readonly=false -device virtio-blk-device,drive=rootfs "
        "-qmp unix:/tmp/q.socket,server,nowait -serial stdio",
        "-machine microvm,mem-share=on,accel=kvm:tcg -smp 8,maxcpus=8,sockets=2,cores=2,threads=2 -m 1G,maxmem=2G "
        "-kernel @vmlinux.bin -initrd @initrd.img -object iothread,id=t -mem-path /dev/hugepages -S "
        "-drive file=@a.img,id=a,direct=off,aio=threads,throttling.iops-total=200 "
        "-device virtio-blk-device,drive=a,iothread=t,serial=x,num-queues=4,queue-size=64,id=d,bootindex=1 "
        "-chardev socket,id=c,path=/tmp/c -device vhost-user-blk-device,chardev=c,id=v "
        "-chardev socket,id=m,path=/tmp/m,server,nowait -mon chardev=m,mode=control -serial pty -daemonize -D /tmp/l",
        "-machine q35 -netdev tap,id=n,ifname=t,vhost=on -device virtio-net-pci,netdev=n,bus=pcie.0,addr=0x2.0x0 "
        "-object rng-random,id=r,filename=/dev/random -device virtio-rng-device,rng=r,max-bytes=1234,period=1000 "
        "-chardev pty,id=p -device virtio-serial-device -device virtconsole,chardev=p,id=c -vnc 0.0.0.0:11 "
        "-smbios type=1,uuid=12345678-1234-1234-1234-123456789abc -numa node,nodeid=0,cpus=0-1:3,memdev=m",
        "-accel test -mod-test /tmp/t -cpu host,pmu=off -display none -incoming file:/x,mapped=true",
    )
]
_VALUES = st.one_of(
    st.sampled_from(
        ["on", "off", "0", "1", "-1", "4", "256", "1_000", " 5", "\u0661", "0x10", "1G", "a", "", "t", "host"]
    ),
    st.sampled_from(["unix:/x", "tcp:1.2.3.4:5", "12:34:56:78:9a:bc", "0-3:5", "[1]", "pcie.0", "0x1f.7", "1.8"]),
    st.integers(-(1 << 70), 1 << 70).map(str),
    st.text(max_size=8),
)


@st.composite
def _occurrence(draw: st.DrawFn) -> list[str]:
    """An option of the table with keys of one of its classes, and values that may or may not suit them."""
    option = draw(st.sampled_from(OPTIONS))
    tables = bodies(option)
    if not tables:
        return [f"-{option.name}", *draw(st.lists(_VALUES, max_size=2))]
    body = draw(st.sampled_from(tables))
    words = [body.name] if body.name else []
    for key in body.keys:
        if key.required or draw(st.integers(0, 3)) == 0:
            value = draw(st.one_of(_VALUES, st.sampled_from(key.kind.completions or ("x",))))
            words.append(f"{key.name}={value}" if key.kind.metavar else key.name)
    return [f"-{option.name}", ",".join(words)]


@st.composite
def _mutated(draw: st.DrawFn) -> list[str]:
    words = list(draw(st.sampled_from(_SEEDS)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(words) - 1)) if words else 0
        kind = draw(st.sampled_from(["delete", "double", "insert", "swap", "edit", "cut", "option"]))
        if kind == "option" or not words:
            words += draw(_occurrence())
        elif kind == "delete":
            del words[at]
        elif kind == "double":
            words.insert(at, words[at])
        elif kind == "insert":
            words.insert(at, draw(_VALUES))
        elif kind == "swap":
            other = draw(st.integers(0, len(words) - 1))
            words[at], words[other] = words[other], words[at]
        else:
            place = draw(st.integers(0, len(words[at])))
            patch = draw(_VALUES) if kind == "edit" else ""
            words[at] = words[at][:place] + patch + words[at][place + draw(st.integers(0, 3)) :]
    return words


def check(words: list[str]) -> None:
    try:
        result = parse(words)
    except VmmError as error:
        text = describe(error)
        assert text
        assert "\x1b" not in text
        return
    if isinstance(result, Info):
        assert result.text
    else:
        check_consistency(result)


def check_consistency(config: VmConfig) -> None:
    """What later stages rely on without asking again."""
    cpus = config.cpus
    assert 1 <= cpus.cpus <= cpus.max_cpus <= 254
    assert cpus.sockets * cpus.dies * cpus.clusters * cpus.cores * cpus.threads == cpus.max_cpus
    assert 128 * MIB <= config.memory.size <= config.memory.max_size <= 512 * GIB
    assert config.machine.type == "microvm"
    assert config.machine.accel in ("auto", "kvm", "tcg", "test")
    drives = {drive.id for drive in config.drives}
    chardevs = {chardev.id for chardev in config.chardevs}
    assert config.serial is None or config.serial in chardevs
    assert len(chardevs) == len(config.chardevs)
    assert len(config.devices) <= 6
    for device in config.devices:
        if isinstance(device, BlkDevice):
            assert device.drive in drives
            assert device.iothread is None or device.iothread in {thread.id for thread in config.iothreads}
        else:
            assert isinstance(device, VhostUserBlkDevice)
            assert device.chardev in chardevs
    for drive in config.drives:
        assert drive.aio != "native" or drive.direct
        assert Path(drive.path).is_absolute()
    assert len(config.monitors) <= 2
    assert config.pidfile is None or config.daemonize


_SETTINGS = settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@_SETTINGS
@given(_mutated())
def test_a_mutated_line_is_an_error_or_a_configuration(words: list[str]) -> None:
    check(words)


@_SETTINGS
@given(st.lists(_occurrence(), max_size=4))
def test_a_line_made_from_the_table_is_an_error_or_a_configuration(parts: list[list[str]]) -> None:
    check(["-kernel", _LINES.path("vmlinux.bin"), *(word for part in parts for word in part)])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(max_size=12), max_size=6))
def test_arbitrary_words_are_an_error_or_a_configuration(words: list[str]) -> None:
    check(words)


def test_the_seeds_that_are_built_parse() -> None:
    for words in _SEEDS[:2]:
        assert isinstance(parse(words), VmConfig)
