"""Guest memory on huge pages (-mem-path)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.harness import Plan, start

POOL = Path("/proc/sys/vm/nr_hugepages")
PAGE = 2 << 20
GUEST_BYTES = 256 << 20


def free_pages() -> int:
    text = Path("/proc/meminfo").read_text()
    return int(text.split("HugePages_Free:")[1].split()[0])


@pytest.fixture
def pool(short_directory: Path) -> Iterator[Path]:
    """A mounted hugetlbfs with room for the guest."""
    try:
        before = POOL.read_text()
        POOL.write_text(str(GUEST_BYTES // PAGE + int(before)))
    except OSError as error:
        pytest.skip(f"cannot reserve huge pages: {error.strerror}")
    mount_point = short_directory / "huge"
    mount_point.mkdir()
    mounted = subprocess.run(["mount", "-t", "hugetlbfs", "hugetlbfs", str(mount_point)], check=False).returncode == 0
    try:
        if not mounted or free_pages() < GUEST_BYTES // PAGE:
            pytest.skip("no hugetlbfs with enough huge pages")
        yield mount_point
    finally:
        if mounted:
            subprocess.run(["umount", str(mount_point)], check=False)
        POOL.write_text(before)


@pytest.mark.rig
def test_a_guest_boots_on_huge_pages_and_gives_them_back(disk_plan: Plan, pool: Path) -> None:
    free = free_pages()
    disk_plan.extra += ["-mem-path", str(pool)]
    with start(disk_plan) as guest:
        console = guest.wait_ready().console
        console.check("cd /usr/share/stratocell && sha256sum -c SHA256SUMS")
        assert free_pages() < free
        assert guest.power_off() == 0
    assert free_pages() == free
    assert list(pool.iterdir()) == []


@pytest.mark.rig
def test_a_pool_that_is_too_small_is_an_error_before_the_guest_runs(plan: Plan, pool: Path) -> None:
    plan.memory = "64G"
    plan.extra += ["-mem-path", str(pool)]
    with start(plan) as guest:
        assert guest.wait_exit() == 1
        assert "huge" in guest.errors()
