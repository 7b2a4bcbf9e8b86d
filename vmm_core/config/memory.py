"""`-m` (facts 1.4; the user's document, "Basic Parameters")."""

from __future__ import annotations

from vmm_core.config.kinds import GIB, MIB, Size
from vmm_core.config.table import Body, Key, read_body
from vmm_core.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm_core.config.draft import Draft

MEMORY_SIZE = Size(128 * MIB, 512 * GIB)
_PAGE = 4096

MEMORY = Body(
    "",
    "size of guest memory",
    (
        Key("size", MEMORY_SIZE, "memory at start", 256 * MIB, required=True),
        Key("maxmem", MEMORY_SIZE, "bound for memory that is plugged in later; default: size"),
    ),
    first="size",
)
BODIES = {"m": (MEMORY,)}


def _read_memory(draft: Draft, text: str) -> None:
    values = read_body(MEMORY, text)
    size, most = values["size"], values["maxmem"] or values["size"]
    if size > most:
        raise VmmError(f"size {MEMORY_SIZE.show(size)} is greater than maxmem {MEMORY_SIZE.show(most)}")
    if size % _PAGE or most % _PAGE:
        raise VmmError("a size must be a multiple of 4 KiB")
    draft.memory = {"size": size, "max_size": most}


READERS = {"m": _read_memory}
