"""A step of the setup is done when its stamp holds the digest of its inputs and its outputs exist."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tools.paths import BUILD, ROOT
from tools.progress import run_step

STAMPS = BUILD / "stamps"


@dataclass(frozen=True)
class Step:
    """One command and what it depends on. `inputs`, `dated`, `outputs`, `stale` are glob patterns below the checkout.

    Of `inputs` the content counts, of `dated` the modification time. What `stale` matches is removed first: an
    extension built by another tool may have a name that Python prefers.
    """

    name: str
    title: str
    command: list[str]
    inputs: tuple[str, ...] = ()
    dated: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    also_done: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    def digest(self) -> str:
        """Digest of the command, the words and every input file, and the times of the dated ones."""
        state = hashlib.sha256("\0".join([*self.command, *self.words]).encode())
        for path in sorted(_files(self.inputs)):
            state.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
        for path in sorted(_files(self.dated)):
            state.update(f"{path.relative_to(ROOT)}\0{path.stat().st_mtime_ns}".encode())
        return state.hexdigest()

    def stamp(self) -> Path:
        return STAMPS / self.name

    def is_done(self) -> bool:
        """True when nothing that the step reads has changed since it last succeeded."""
        stamp = self.stamp()
        if not stamp.exists() or not all(any(ROOT.glob(pattern)) for pattern in self.outputs):
            return False
        return stamp.read_text() == self.digest()


def run_steps(steps: Iterable[Step]) -> None:
    """Run what is not done, in order. StepFailed ends it; a second run then continues at the same place."""
    every = {step.name: step for step in steps}
    STAMPS.mkdir(parents=True, exist_ok=True)
    for step in every.values():
        if step.is_done():
            continue
        digest = step.digest()
        step.stamp().unlink(missing_ok=True)
        for path in [path for pattern in step.stale for path in ROOT.glob(pattern)]:
            path.unlink()
        environment = {**os.environ, **step.environment} if step.environment else None
        run_step(step.name, step.title, step.command, env=environment)
        step.stamp().write_text(digest)
        for name in step.also_done:
            every[name].stamp().write_text(every[name].digest())


def _files(patterns: tuple[str, ...]) -> set[Path]:
    found: set[Path] = set()
    for pattern in patterns:
        found.update(path for path in ROOT.glob(pattern) if path.is_file() and not _is_generated(path))
    return found


def _is_generated(path: Path) -> bool:
    """cffi writes each extension's C beside its build script, as _NAME.c."""
    return "__pycache__" in path.parts or (path.suffix == ".c" and path.name.startswith("_"))
