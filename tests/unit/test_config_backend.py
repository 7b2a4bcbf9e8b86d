"""`-backend`: which policy each device's process gets, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.config_lines import Lines
from vmm_core.config.records import MIB, BackendPolicy

DISKS = (
    "-drive file=@a.img,id=a -device virtio-blk-device,drive=a,id=one "
    "-drive file=@b.img,id=b -device virtio-blk-device,drive=b"
)


@pytest.fixture
def lines(tmp_path: Path) -> Lines:
    return Lines(tmp_path)


def test_without_the_option_every_backend_is_restarted_after_a_failure(lines: Lines) -> None:
    policy = lines.good(DISKS).backend_policy("one")
    assert policy == BackendPolicy()
    assert (policy.restart, policy.max_restarts, policy.window, policy.backoff) == ("on-failure", 10, 60, 0)


def test_a_device_takes_from_the_default_what_its_own_policy_leaves_open(lines: Lines) -> None:
    config = lines.good(f"{DISKS} -backend id=one,window=5 -backend default,max-restarts=3,window=7,nice=-5")
    assert config.backend_policy("one") == BackendPolicy(id="one", max_restarts=3, window=5, nice=-5)
    assert config.backend_policy("b") == BackendPolicy(max_restarts=3, window=7, nice=-5)


def test_a_device_without_id_goes_by_its_drive(lines: Lines) -> None:
    assert lines.good(f"{DISKS} -backend b,restart=never").backend_policy("b").restart == "never"


def test_a_foreign_backend_goes_by_its_chardev(lines: Lines) -> None:
    config = lines.good(
        "-chardev socket,id=c,path=@c.sock -device vhost-user-blk-device,chardev=c -backend id=c,backoff=50"
    )
    assert config.backend_policy("c").backoff == 50


def test_every_limit_arrives_in_its_unit(lines: Lines) -> None:
    config = lines.good(
        f"{DISKS} -backend id=default,sandbox=strict,cpu-max=50%,memory-max=64M,pids-max=16,io-read-bps=1M,"
        "io-write-bps=2M,io-read-iops=100,io-write-iops=200,cpus=0-1:3,nice=19"
    )
    assert config.backend_policy("one") == BackendPolicy(
        sandbox="strict",
        cpu_max=50,
        memory_max=64 * MIB,
        pids_max=16,
        io_read_bps=MIB,
        io_write_bps=2 * MIB,
        io_read_iops=100,
        io_write_iops=200,
        cpus=(0, 1, 3),
        nice=19,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-backend id=two", "there is no device 'two'"),
        ("-backend id=a", "there is no device 'a'"),  # its id is "one"
        ("-backend restart=always", "required argument 'id'"),
        ("-backend default -backend default", "given before"),
        ("-backend one,restart=sometimes", "expected one of on-failure, always, never"),
        ("-backend one,max-restarts=-1", "from 0 to 1000000"),
        ("-backend one,window=0", "from 1 to 86400"),
        ("-backend one,backoff=1s", "from 0 to 60000"),
        ("-backend one,cpu-max=0%", "percentage"),
        ("-backend one,memory-max=1K", "a size from 4 MiB"),
        ("-backend one,nice=20", "-20 to 19"),
        ("-backend one,nice=--1", "-20 to 19"),
        ("-backend one,cpus=1-0", "a list such as"),
        ("-backend one,sandbox=off", "one of default, strict"),
        ("-backend one,retries=1", "unexpected argument 'retries'"),
    ],
)
def test_a_wrong_policy_is_refused_by_name(lines: Lines, text: str, message: str) -> None:
    assert message in lines.bad(f"{DISKS} {text}")


def test_several_policies_may_follow_one_option(lines: Lines) -> None:
    config = lines.good(f"{DISKS} -backend one,restart=never b,restart=always")
    assert [policy.restart for policy in (config.backend_policy("one"), config.backend_policy("b"))] == [
        "never",
        "always",
    ]
