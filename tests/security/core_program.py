"""A core in small: starts a spawner and backends, prints `zygote keeper spawner backend…` process ids, and just runs.

`core_program.py COUNT`. Tests kill it.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from tests.security.cell import Cell

    cell = Cell()
    peers = [cell.ready(f"echo{index}") for index in range(int(sys.argv[1]))]
    cell.until(lambda: cell.spawner.pid > 0)
    if "spin" in sys.argv:
        peers[0].say("spin")
    helpers = (cell.spawner.zygote_pid, cell.spawner.keeper_pid, cell.spawner.pid)
    missing = [line for peer in peers for line in peer.process.missing]
    print(*helpers, *(peer.process.pid for peer in peers), *missing, flush=True, sep="\t")
    cell.loop.run()


if __name__ == "__main__":
    main()
