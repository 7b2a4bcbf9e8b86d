"""Payloads of vhost-user messages: named fields, packed in native byte order without implicit padding.

`pack` and `unpack` are each other's inverse; `unpack` refuses a payload of another size.
"""

from __future__ import annotations

from struct import Struct

from ipc.errors import WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CODES = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q", "uuid": "16s", "sizes": "256Q"}


class Layout:
    """Fixed fields. A field's type `padN` is N bytes of zero that have no value.

    `loose_tail` bytes at the end may be missing: some peers send a structure with its C padding, some without.
    """

    __slots__ = ("fields", "loose_tail", "name", "size", "struct")

    def __init__(self, name: str, *fields: tuple[str, str], loose_tail: int = 0) -> None:
        self.name = name
        self.fields = fields
        self.loose_tail = loose_tail
        self.struct = Struct("=" + "".join(_code(kind) for kind, _ in fields))
        self.size = self.struct.size

    def pack(self, *values: Any) -> bytes:
        """Return the payload holding `values`, in the order of the fields (padding left out)."""
        return self.struct.pack(*values)

    def unpack(self, payload: bytes) -> tuple[Any, ...]:
        """Return the values of the fields; WireError for a payload of another size."""
        if not self.fits(len(payload)):
            raise WireError(f"payload of {len(payload)} bytes, expected {self.size} ({self.name})")
        return self.struct.unpack(payload.ljust(self.size, b"\0"))

    def fits(self, size: int) -> bool:
        """Whether a payload of `size` bytes may be this one."""
        return size == self.size or (self.loose_tail > 0 and size == self.size - self.loose_tail)

    def sizes(self) -> str:
        """The size for people: a number, or a formula."""
        return f"{self.size} (or {self.size - self.loose_tail})" if self.loose_tail else str(self.size)


class RepeatedLayout(Layout):
    """A head whose first field counts the elements that follow. Values: the list of elements, each a tuple."""

    __slots__ = ("element", "limit")

    def __init__(self, name: str, *fields: tuple[str, str], element: Layout, limit: int) -> None:
        super().__init__(name, *fields)
        self.element = element
        self.limit = limit

    def pack(self, *values: Any) -> bytes:
        (elements,) = values
        return self.struct.pack(len(elements)) + b"".join(self.element.pack(*element) for element in elements)

    def unpack(self, payload: bytes) -> tuple[Any, ...]:
        if not self.fits(len(payload)):
            raise WireError(f"payload of {len(payload)} bytes is no {self.name}")
        (count,) = self.struct.unpack_from(payload)
        if len(payload) != self.size + count * self.element.size:
            raise WireError(f"payload of {len(payload)} bytes announces {count} elements ({self.name})")
        return (list(self.element.struct.iter_unpack(payload[self.size :])),)

    def fits(self, size: int) -> bool:
        count, rest = divmod(size - self.size, self.element.size)
        return rest == 0 and 0 <= count <= self.limit

    def sizes(self) -> str:
        return f"{self.size} + {self.element.size} n, n <= {self.limit}"


class TailLayout(Layout):
    """A head whose field `size` (the second) counts the bytes that follow. Values: the fields, then the bytes."""

    __slots__ = ("limit",)

    def __init__(self, name: str, *fields: tuple[str, str], limit: int) -> None:
        super().__init__(name, *fields)
        self.limit = limit

    def pack(self, *values: Any) -> bytes:
        *head, data = values
        return self.struct.pack(*head) + bytes(data)

    def unpack(self, payload: bytes) -> tuple[Any, ...]:
        if not self.fits(len(payload)):
            raise WireError(f"payload of {len(payload)} bytes is no {self.name}")
        head = self.struct.unpack_from(payload)
        if head[1] != len(payload) - self.size:
            raise WireError(f"{self.name} of {head[1]} bytes carries {len(payload) - self.size}")
        return (*head, payload[self.size :])

    def fits(self, size: int) -> bool:
        return self.size <= size <= self.size + self.limit

    def sizes(self) -> str:
        return f"{self.size} + n, n <= {self.limit}"


class OpaqueLayout(Layout):
    """Up to `limit` bytes that mean nothing here. Value: the bytes."""

    __slots__ = ("limit",)

    def __init__(self, name: str, limit: int) -> None:
        super().__init__(name)
        self.limit = limit

    def pack(self, *values: Any) -> bytes:
        return bytes(values[0])

    def unpack(self, payload: bytes) -> tuple[Any, ...]:
        if not self.fits(len(payload)):
            raise WireError(f"payload of {len(payload)} bytes, at most {self.limit} ({self.name})")
        return (payload,)

    def fits(self, size: int) -> bool:
        return 0 <= size <= self.limit

    def sizes(self) -> str:
        return f"<= {self.limit}"


def _code(kind: str) -> str:
    return f"{kind[3:]}x" if kind.startswith("pad") else _CODES[kind]


EMPTY = Layout("nothing")
U64 = Layout("u64", ("u64", "value"))
UUID = Layout("uuid", ("uuid", "uuid"))
VRING_STATE = Layout("vring state", ("u32", "index"), ("u32", "num"))
VRING_ADDRESS = Layout(
    "vring address",
    ("u32", "index"),
    ("u32", "flags"),
    ("u64", "descriptor"),
    ("u64", "used"),
    ("u64", "available"),
    ("u64", "log"),
)
_REGION = (("u64", "guest address"), ("u64", "size"), ("u64", "user address"), ("u64", "mmap offset"))
MEMORY_TABLE = RepeatedLayout(
    "memory table", ("u32", "regions"), ("pad4", "padding"), element=Layout("region", *_REGION), limit=8
)
MEMORY_REGION = Layout("memory region", ("pad8", "padding"), *_REGION)
LOG = Layout("log", ("u64", "size"), ("u64", "offset"))
IOTLB = Layout(
    "IOTLB message",
    ("u64", "iova"),
    ("u64", "size"),
    ("u64", "user address"),
    ("u8", "permissions"),
    ("u8", "type"),
    ("pad6", "padding"),
)
CONFIG = TailLayout("configuration space", ("u32", "offset"), ("u32", "size"), ("u32", "flags"), limit=256)
VRING_AREA = Layout("vring area", ("u64", "index and flags"), ("u64", "size"), ("u64", "offset"))
INFLIGHT = Layout(
    "inflight description",
    ("u64", "mmap size"),
    ("u64", "mmap offset"),
    ("u16", "num queues"),
    ("u16", "queue size"),
    ("pad4", "padding"),
    loose_tail=4,
)
DEVICE_STATE = Layout("device state transfer", ("u32", "direction"), ("u32", "phase"))
SHMEM_CONFIG = Layout("shared memory regions", ("u32", "count"), ("pad4", "padding"), ("sizes", "sizes"))
SHMEM_MAP = Layout(
    "shared memory map",
    ("u8", "shmid"),
    ("pad7", "padding"),
    ("u64", "fd offset"),
    ("u64", "shm offset"),
    ("u64", "length"),
    ("u64", "flags"),
)
OPAQUE = OpaqueLayout("device-specific", 4096)
UNSPECIFIED = OpaqueLayout("unspecified, not looked at", 16)  # peers differ in what they answer
