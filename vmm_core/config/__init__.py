"""The command line as frozen, checked records (interface facts section 1; the user's VM-configuration document wins).

One option table (`options.py` and the family modules that it names) drives the parser, `-help`, the manual page and
shell completion. Only the families that a command line uses are imported: this package is on the start path.
"""

from __future__ import annotations

from vmm_core.config.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmm_core.config.records import VmConfig


class Info(Record):
    """What to print on standard output instead of starting a VM (`-help`, `-version`); the exit status is then 0."""

    text: str


def parse(argv: Sequence[str]) -> VmConfig | Info:
    """Turn a command line, without the program's name, into a checked configuration.

    Raises VmmError, with its causes chained, for everything that is wrong with the line or with the files it names.
    """
    from vmm_core.config.builder import build
    from vmm_core.config.lexer import tokenise

    occurrences, information = tokenise(argv)
    if information == "help":
        from vmm_core.config.helptext import usage

        return Info(text=usage())
    if information == "version":
        from vmm_core.config.helptext import version

        return Info(text=version())
    return build(occurrences)
