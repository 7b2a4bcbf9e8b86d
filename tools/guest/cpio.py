"""Write an initramfs: the newc form of cpio. Deterministic: fixed owner, time and inode numbers."""

from __future__ import annotations

import stat

ALIGNMENT = 4


class Archive:
    """Collects files in order; `finish` returns the archive."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._inode = 0

    def directory(self, name: str) -> None:
        self._add(name, stat.S_IFDIR | 0o755, b"")

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        self._add(name, stat.S_IFREG | mode, content)

    def symlink(self, name: str, target: str) -> None:
        self._add(name, stat.S_IFLNK | 0o777, target.encode())

    def finish(self) -> bytes:
        self._add("TRAILER!!!", 0, b"")
        return b"".join(self._parts)

    def _add(self, name: str, mode: int, content: bytes) -> None:
        self._inode += 1
        path = name.encode() + b"\0"
        links, size, zero = 1, len(content), 0
        numbers = (self._inode, mode, zero, zero, links, zero, size, zero, zero, zero, zero, len(path), zero)
        header = b"070701" + b"".join(b"%08x" % number for number in numbers)
        self._parts += [_padded(header + path), _padded(content)]


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % ALIGNMENT)
