"""The console script that pip installs; `tools.setup` puts a launcher with the same name and meaning in its place.

pip's own script imports `re` and reads .pth files before the first line of ours: 10 ms of a start that has 50.
"""

from __future__ import annotations

import sys


def console() -> int:
    """Run the command line of this process; returns the exit status."""
    from vmm_core.cli import main

    return main(sys.argv[1:])
