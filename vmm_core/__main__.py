"""`python -m vmm_core`: the same as `stratovirt`."""

from __future__ import annotations

import sys

from vmm_core.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
