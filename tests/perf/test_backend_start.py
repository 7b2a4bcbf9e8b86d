"""What `sandbox=strict` costs: from asking for a disk's backend to its first answer, forked and executed."""

from __future__ import annotations

import os
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

from ipc import vhost_user as wire
from tests.security.cell import Cell
from tests.wire.raw_frontend import RawFrontend

if TYPE_CHECKING:
    from pathlib import Path

ROUNDS = 20
LONGEST = 2.0  # seconds for a strict one, on a machine that has other things to do


def start_times(strict: bool, image: int) -> list[float]:
    """Seconds, sorted; the spawner is warm."""
    cell = Cell("blk", strict=strict)
    times = []
    for round_ in range(ROUNDS + 1):
        begin = perf_counter()
        peer = cell.start(f"disk{round_}", {}, {"image": image})
        front = RawFrontend(peer.take_socket())
        front.call(wire.GET_FEATURES)
        times.append(perf_counter() - begin)
        front.close()
        peer.hang_up()
        peer.ended()
    cell.close()
    return sorted(times[1:])


def test_a_strict_backend_starts_later_but_soon(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(1 << 20))
    image = os.open(path, os.O_RDWR)
    forked, executed = start_times(False, image), start_times(True, image)
    os.close(image)
    for name, times in (("forked", forked), ("strict", executed)):
        print(f"{name}: median of {ROUNDS} {median(times) * 1e3:.1f} ms, {times[0] * 1e3:.1f} to {times[-1] * 1e3:.1f}")
    assert median(forked) < median(executed) < LONGEST
