"""`python -m tools.rig [--limit SECONDS] [--memory SIZE] -- COMMAND...`: run COMMAND where KVM is ordinary."""

from __future__ import annotations

import argparse
import sys

from tools.rig.machine import CPUS, RigFailed, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.rig", description=__doc__)
    parser.add_argument("--limit", type=float, default=600.0, metavar="SECONDS", help="default: %(default)g")
    parser.add_argument("--memory", default="6G", help="memory of the rig's machine (default: %(default)s)")
    parser.add_argument("--cpus", type=int, default=CPUS, help="its CPUs (default: %(default)s)")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    try:
        return run(arguments.command, arguments.limit, arguments.memory, arguments.cpus)
    except RigFailed as failure:
        print(f"rig: {failure}", file=sys.stderr)
        return 124


if __name__ == "__main__":
    sys.exit(main())
