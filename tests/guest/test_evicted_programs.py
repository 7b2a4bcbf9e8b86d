"""Programs run from the disk, also after their pages were evicted and other code was read into the same memory.

The case of a software CPU that keeps translations: the disk's backend writes guest memory behind its back.
"""

from __future__ import annotations

import pytest

from tests.guest.console import Console
from tests.guest.harness import Guest

RUN_ALL = """\
cd /usr/lib/stratocell/programs
for program in $({order}); do
    ./$program
    [ $? = $program ] || echo "$program returned the status of other code"
done"""
DROP = "echo 3 >/proc/sys/vm/drop_caches"


def run_all(console: Console, order: str) -> str:
    return console.check(RUN_ALL.format(order=order), 90)


@pytest.mark.rig
def test_programs_are_themselves_after_eviction(guest: Guest) -> None:
    for order in ("seq 1 200", "seq 200 -1 1", "seq 1 3 200; seq 2 3 200; seq 3 3 200"):
        assert run_all(guest.console, order) == ""
        guest.console.check(DROP)
    assert guest.power_off() == 0


def test_busybox_survives_eviction_under_pressure(guest: Guest) -> None:
    fill = "dd if=/dev/zero of=/tmp/fill bs=1M count=100 2>/dev/null; rm /tmp/fill"
    for _ in range(5):
        guest.console.check(f"{DROP}; {fill}; cd /usr/share/stratocell && sha256sum -c SHA256SUMS")
    assert guest.power_off() == 0
