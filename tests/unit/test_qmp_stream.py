"""Cutting bytes into commands: whatever pieces they arrive in, whatever a hostile client sends."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm_core.qmp.stream import MAX_DEPTH, MAX_MESSAGE, JsonStream, StreamError

TEXTS = st.text(alphabet=st.sampled_from('ab {}[]"\\/:,\n\u00e9\U0001f600'), max_size=12)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
VALUES = st.recursive(LEAVES, lambda child: st.lists(child, max_size=4) | st.dictionaries(TEXTS, child, max_size=4))
OBJECTS = st.dictionaries(TEXTS, VALUES, max_size=4)


def cut(stream: JsonStream, data: bytes, places: list[int]) -> list[bytes]:
    """Feed `data` cut at `places`."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [value for start, end in pairwise(edges) for value in stream.feed(data[start:end])]


@given(
    st.lists(OBJECTS, max_size=5),
    st.sampled_from(["", " ", "\n", "\r\n", "\t\n "]),
    st.lists(st.integers(0), max_size=9),
)
def test_commands_arrive_whole_however_they_are_cut(objects: list[Any], between: str, places: list[int]) -> None:
    data = "".join(json.dumps(value, ensure_ascii=False) + between for value in objects).encode()
    stream = JsonStream()
    values = [value for value in cut(stream, data, places) if value.strip()]
    assert [json.loads(value) for value in values] == objects
    assert stream.is_empty or not between.strip()


@given(OBJECTS)
def test_a_command_printed_over_many_lines_is_one_command(value: dict[str, Any]) -> None:
    values = JsonStream().feed(json.dumps(value, indent=2).encode() + b"\n")
    assert json.loads(values[0]) == value


@given(st.binary(max_size=300), st.lists(st.integers(0), max_size=9))
def test_garbage_ends_in_values_or_a_refusal_and_loses_no_byte_but_space(data: bytes, places: list[int]) -> None:
    stream = JsonStream()
    try:
        values = cut(stream, data, places)
    except StreamError:
        return
    joined = b"".join(values).translate(None, b" \t\r\n")
    assert data.translate(None, b" \t\r\n").startswith(joined)


@given(st.text(alphabet='ab"\\{[', min_size=1, max_size=20).map(str.encode))
def test_a_line_of_nonsense_costs_only_what_it_left_open(nonsense: bytes) -> None:
    """An open string ends with its line; open brackets end with as many closing ones."""
    stream = JsonStream()
    stream.feed(nonsense + b"\n")
    stream.feed(b"]" * 20 + b"\n")
    assert b'{"execute":"stop"}' in stream.feed(b'{"execute":"stop"}')


def test_an_endless_command_is_refused_before_it_grows() -> None:
    stream = JsonStream()
    stream.feed(b'{"execute":"')
    for _ in range(MAX_MESSAGE // 1024 - 1):
        stream.feed(b"a" * 1024)
    with pytest.raises(StreamError, match="too long"):
        stream.feed(b"a" * 1024)


def test_nesting_is_refused_before_it_overflows_a_parser() -> None:
    assert JsonStream().feed(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    with pytest.raises(StreamError, match="nested"):
        JsonStream().feed(b"[" * (MAX_DEPTH + 1))


def test_space_between_commands_is_not_kept() -> None:
    stream = JsonStream()
    for _ in range(1000):
        stream.feed(b" \t" * 1000)
    assert stream.is_empty
