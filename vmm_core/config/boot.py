"""`-append`: the words of the kernel command line (facts 1.1; unquoted in the user's document)."""

from __future__ import annotations

from vmm_core.config.kinds import quote
from vmm_core.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm_core.config.draft import Draft
    from vmm_core.config.table import Body

BODIES: dict[str, tuple[Body, ...]] = {"append": ()}
MAX_PARAMETER_VALUE = 255


def _read_append(draft: Draft, text: str) -> None:
    """Take one token, which may hold several parameters if it was quoted."""
    for parameter in text.split(" "):
        name, _, value = parameter.partition("=")
        if len(value) > MAX_PARAMETER_VALUE:
            raise VmmError(f"the value of {quote(name)} is longer than {MAX_PARAMETER_VALUE} characters")
    if not text.isprintable() and not text.replace("\t", " ").replace("\n", " ").isprintable():
        raise VmmError("the kernel command line must be printable text")
    draft.append.append(text)


READERS = {"append": _read_append}
