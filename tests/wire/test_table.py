"""The message table: encoder and decoder agree, and the documentation says what the code does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc import vhost_user as wire
from ipc import vhost_user_layout as layouts
from ipc.connection import MAX_PAYLOAD
from ipc.errors import WireError
from ipc.fds import MAX_FDS
from ipc.vhost_user_docs import markdown

TABLES = (wire.FRONTEND_REQUESTS, wire.BACKEND_REQUESTS)
MESSAGES = [message for table in TABLES for message in table.values()]
LAYOUTS = [layout for layout in vars(layouts).values() if isinstance(layout, layouts.Layout)]
LIMITS = {"u8": 1 << 8, "u16": 1 << 16, "u32": 1 << 32, "u64": 1 << 64}


def field_values(kind: str) -> st.SearchStrategy[Any]:
    if kind == "uuid":
        return st.binary(min_size=16, max_size=16)
    return st.integers(0, LIMITS[kind] - 1)


def values_of(layout: layouts.Layout) -> st.SearchStrategy[tuple[Any, ...]]:
    """Values that `layout.pack` takes."""
    if isinstance(layout, layouts.RepeatedLayout):
        return st.tuples(st.lists(values_of(layout.element), max_size=layout.limit))
    if isinstance(layout, layouts.OpaqueLayout):
        return st.tuples(st.binary(max_size=layout.limit))
    if isinstance(layout, layouts.TailLayout):
        return st.tuples(field_values("u32"), field_values("u32"), st.binary(max_size=layout.limit)).map(
            lambda parts: (parts[0], len(parts[2]), parts[1], parts[2])
        )
    kinds = [kind for kind, _ in layout.fields if not kind.startswith("pad")]
    if "sizes" in kinds:
        return st.lists(field_values("u64"), min_size=257, max_size=257).map(lambda sizes: (sizes[0] >> 32, *sizes[1:]))
    return st.tuples(*(field_values(kind) for kind in kinds))


@given(st.data())
def test_what_is_packed_is_unpacked_unchanged(data: st.DataObject) -> None:
    message = data.draw(st.sampled_from(MESSAGES))
    values = data.draw(values_of(message.payload))
    payload = message.payload.pack(*values)
    assert message.payload.fits(len(payload))
    assert message.payload.unpack(payload) == values


@given(st.sampled_from(LAYOUTS), st.binary(max_size=600))
def test_any_bytes_are_unpacked_or_refused(layout: layouts.Layout, payload: bytes) -> None:
    try:
        values = layout.unpack(payload)
    except WireError:
        return
    assert layout.fits(len(payload))
    assert layout.pack(*values).startswith(payload[: layout.size - 8] if layout.loose_tail else b"")


def test_the_front_end_table_is_complete() -> None:
    assert sorted(wire.FRONTEND_REQUESTS) == list(range(1, 45))
    assert sorted(wire.BACKEND_REQUESTS) == list(range(1, 11))


@pytest.mark.parametrize("message", MESSAGES, ids=str)
def test_every_message_can_be_carried(message: wire.Message) -> None:
    for low, high in (message.fds, message.reply_fds):
        assert 0 <= low <= high <= MAX_FDS
    for layout in (message.payload, message.reply):
        assert layout is None or layout.size <= MAX_PAYLOAD
    assert message.gate is None or 0 <= message.gate < len(wire.PROTOCOL_FEATURE_NAMES)
    assert bool(message.index) == ("VRING" in message.name)


@pytest.mark.parametrize(
    ("layout", "size"),
    [
        (layouts.VRING_STATE, 8),
        (layouts.VRING_ADDRESS, 40),
        (layouts.MEMORY_REGION, 40),
        (layouts.LOG, 16),
        (layouts.IOTLB, 32),
        (layouts.CONFIG, 12),
        (layouts.VRING_AREA, 24),
        (layouts.INFLIGHT, 24),
        (layouts.SHMEM_CONFIG, 2056),
        (layouts.SHMEM_MAP, 40),
    ],
)
def test_payloads_have_the_sizes_that_other_implementations_send(layout: layouts.Layout, size: int) -> None:
    assert layout.size == size


def test_the_documentation_is_generated_from_the_table() -> None:
    page = Path(__file__).parents[2] / "docs" / "vhost-user-messages.md"
    assert page.read_text() == markdown(), "run: python -m ipc.vhost_user_docs > docs/vhost-user-messages.md"
