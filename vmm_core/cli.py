"""`stratovirt`: from words on a command line to an exit status (facts 1.2)."""

from __future__ import annotations

import sys

from vmm_core.errors import VmmError, describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Parse `argv` (without the program's name), run the VM, return the exit status: 0 or 1."""
    from vmm_core.config import Info, parse

    try:
        config = parse(argv)
    except VmmError as error:
        return _refuse(error)
    if isinstance(config, Info):
        sys.stdout.write(config.text if config.text.endswith("\n") else config.text + "\n")
        return 0
    from vmm_core.main import run

    try:
        return run(config)
    except VmmError as error:
        return _refuse(error)


def _refuse(error: VmmError) -> int:
    """Show an error chain the way StratoVirt does: on standard error, its end marked by CR LF."""
    sys.stderr.write(describe(error) + "\r\n")
    return 1
