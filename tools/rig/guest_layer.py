"""`make test-rig`: the guest layer on ordinary KVM. One pytest for all: starting Python there costs seconds."""

from __future__ import annotations

import sys

from tools.paths import VENV
from tools.rig.machine import RigFailed, run

LIMIT = 1800.0  # seconds


def main(extra: list[str]) -> int:
    python = str(VENV / "bin" / "python")
    selected = ["tests/guest", "-m", "rig", "--accel", "kvm"]
    command = [python, "-m", "pytest", *selected, "-q", "-p", "no:cacheprovider", *extra]
    try:
        return run(command, LIMIT)
    except RigFailed as failure:
        print(f"rig: {failure}", file=sys.stderr)
        return 124


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
