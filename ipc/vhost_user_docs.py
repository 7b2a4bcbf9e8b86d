"""Writes the page docs/vhost-user-messages.md from the message table: `python -m ipc.vhost_user_docs > PAGE`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ipc import vhost_user as wire
from ipc import vhost_user_layout as layouts
from ipc.connection import MAX_PAYLOAD
from ipc.fds import MAX_FDS

if TYPE_CHECKING:
    from collections.abc import Iterable

INTRODUCTION = f"""# vhost-user messages

Generated from the table in `ipc/vhost_user.py` (`python -m ipc.vhost_user_docs`); a test keeps it current.

A message is a header of three 32-bit numbers in native byte order (request, flags, size of the payload), the payload
(at most {MAX_PAYLOAD} bytes) and descriptors (at most {MAX_FDS}, on the message's first byte). Flags: bits 0-1 are the
version (1), bit 2 "reply", bit 3 "need reply". A request without an answer of its own is acknowledged by a u64, zero
for success, if REPLY_ACK was negotiated and "need reply" is set. "Gate" is the protocol feature without which a request
is illegal.
"""
HEAD = ("id", "request", "payload", "fds", "answer", "answer's fds", "gate", "ring index")


def markdown() -> str:
    """Return the whole page."""
    parts = [
        INTRODUCTION,
        "## Requests of the front-end\n\n" + _messages(wire.FRONTEND_REQUESTS.values()),
        "## Requests of the back-end\n\nOver the socket of SET_BACKEND_REQ_FD.\n\n"
        + _messages(wire.BACKEND_REQUESTS.values()),
        "## Payloads\n\nSizes in bytes.\n\n" + _payloads(),
        "## Protocol features\n\n" + _table(("bit", "name"), enumerate(wire.PROTOCOL_FEATURE_NAMES)),
    ]
    return "\n".join(parts)


def _messages(messages: Iterable[wire.Message]) -> str:
    return _table(HEAD, (_row(message) for message in sorted(messages, key=lambda message: message.id)))


def _row(message: wire.Message) -> tuple[object, ...]:
    answer = "" if message.reply is None else message.reply.name
    if message.reply_gate is not None:
        answer += f" (with {wire.PROTOCOL_FEATURE_NAMES[message.reply_gate]})"
    gate = "" if message.gate is None else wire.PROTOCOL_FEATURE_NAMES[message.gate]
    fds, reply_fds = _range(message.fds), _range(message.reply_fds)
    return message.id, message.name, message.payload.name, fds, answer, reply_fds, gate, message.index


def _range(count: tuple[int, int]) -> str:
    low, high = count
    return str(low) if low == high else f"{low}-{high}"


def _payloads() -> str:
    known = {layout.name: layout for layout in vars(layouts).values() if isinstance(layout, layouts.Layout)}
    rows = []
    for name in sorted(known):
        layout = known[name]
        fields = ", ".join(f"{kind} {field}" if not kind.startswith("pad") else kind for kind, field in layout.fields)
        if isinstance(layout, layouts.RepeatedLayout):
            fields += "; each: " + ", ".join(f"{kind} {field}" for kind, field in layout.element.fields)
        elif isinstance(layout, layouts.TailLayout):
            fields += ", then the bytes"
        rows.append((name, layout.sizes(), fields))
    return _table(("payload", "size", "fields"), rows)


def _table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)


if __name__ == "__main__":
    sys.stdout.write(markdown())
