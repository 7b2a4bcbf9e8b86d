"""`sandbox=strict`: the whole sandbox or no backend, and an address layout that no sibling knows."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.security.cell import Cell

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.security.cell import Peer

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root may look into an undumpable process")


@pytest.fixture
def strict() -> Iterator[Cell]:
    made = Cell(strict=True)
    yield made
    made.close()


def layout(peer: Peer) -> list[str]:
    """Where its program, its C library and its stack are."""
    with open(f"/proc/{peer.process.pid}/maps", encoding="ascii") as maps:
        lines = [line.split() for line in maps]
    places = {words[-1]: words[0].split("-")[0] for words in reversed(lines) if len(words) == 6}
    return [places[name] for name in sorted(places) if name == "[stack]" or "python" in name or "libc.so" in name]


@needs_root
def test_a_strict_backend_has_an_address_layout_of_its_own(strict: Cell) -> None:
    first, second = layout(strict.ready("first")), layout(strict.ready("second"))
    assert len(first) >= 3
    assert not set(first) & set(second)


@needs_root
def test_forked_siblings_share_theirs_as_the_threat_model_says(cell: Cell) -> None:
    assert layout(cell.ready("first")) == layout(cell.ready("second"))


def test_a_strict_backend_serves_in_the_same_sandbox(strict: Cell) -> None:
    peer = strict.ready(options={"greeting": "hello"})
    assert peer.ask("are you there") == "are you there"
    with open(f"/proc/{peer.process.pid}/status", encoding="ascii") as status:
        lines = dict(line.rstrip("\n").split(":\t", 1) for line in status if ":\t" in line)
    assert (lines["NoNewPrivs"], lines["Seccomp"], int(lines["CapEff"], 16)) == ("1", "2", 0)
    assert peer.process.missing == []


def test_without_the_whole_sandbox_a_strict_backend_does_not_serve() -> None:
    cell = Cell(seccomp=False, strict=True)
    process = cell.start("echo").ended()
    cell.until(lambda: process.confined)
    cell.close()
    assert process.exit_status == 1
    expected = "sandbox=strict, but the sandbox is without seccomp filter: lifted by -disable-seccomp"
    assert process.last_lines[-1] == expected
    assert process.missing == ["seccomp filter: lifted by -disable-seccomp"]
