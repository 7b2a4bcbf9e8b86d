"""Cutting a byte stream into JSON values, bounded in size and depth, without looking into them.

Clients may send half a command, or ten at once: what counts is where a value ends. Text is not checked here.
"""

from __future__ import annotations

MAX_MESSAGE = 64 << 10  # bytes of one command
MAX_DEPTH = 64  # nested objects and arrays

_OPEN, _CLOSE, _QUOTE, _BACKSLASH, _NEWLINE = b"{[", b"}]", ord('"'), ord("\\"), ord("\n")
_SPACE = b" \t\r\n"


class StreamError(Exception):
    """The stream cannot be a sequence of commands; one line."""


class JsonStream:
    """Feed bytes, take complete top-level values. After a StreamError the stream is of no more use."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._position = 0  # scanned up to here
        self._depth = 0
        self._in_string = False
        self._escaped = False

    @property
    def is_empty(self) -> bool:
        """Whether no value has begun."""
        return not self._buffer

    def feed(self, data: bytes) -> list[bytes]:
        """Add `data`; return the values that are now complete."""
        self._buffer += data
        values = []
        while (value := self._next()) is not None:
            values.append(value)
        if len(self._buffer) > MAX_MESSAGE:
            raise StreamError(f"The socket message is too long: more than {MAX_MESSAGE} bytes")
        return values

    def _next(self) -> bytes | None:
        if self._position == 0 and not self._in_string:
            del self._buffer[: len(self._buffer) - len(self._buffer.lstrip(_SPACE))]
        while self._position < len(self._buffer):
            byte = self._buffer[self._position]
            self._position += 1
            if self._ends_value(byte):
                value = bytes(self._buffer[: self._position])
                del self._buffer[: self._position]
                self._position = 0
                return value
        return None

    def _ends_value(self, byte: int) -> bool:
        """Whether `byte` closes the outermost value. Outside of one, a line is a value: the parser will refuse it."""
        if self._in_string:
            return self._scan_string(byte)
        if byte == _QUOTE:
            self._in_string = True
        elif byte in _OPEN:
            self._depth += 1
            if self._depth > MAX_DEPTH:
                raise StreamError(f"JSON is nested more than {MAX_DEPTH} levels deep")
        elif byte in _CLOSE:
            self._depth = max(0, self._depth - 1)
            return self._depth == 0
        return self._depth == 0 and byte == _NEWLINE

    def _scan_string(self, byte: int) -> bool:
        """JSON has no newline inside a string: one ends whatever this was, so that the next line is heard again."""
        if byte == _NEWLINE:
            self._depth, self._in_string, self._escaped = 0, False, False
            return True
        if self._escaped:
            self._escaped = False
        elif byte == _BACKSLASH:
            self._escaped = True
        elif byte == _QUOTE:
            self._in_string = False
        return False
