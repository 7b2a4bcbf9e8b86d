"""Command lines for the configuration tests: files that exist, and short ways to parse and to fail."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from vmm_core.config import parse
from vmm_core.config.records import VmConfig
from vmm_core.errors import VmmError, describe


class Lines:
    """A directory with a kernel and disk images, and command lines that name them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("vmlinux.bin", "initrd.img", "a.img", "b.img", "c.img", "d.img", "e.img", "f.img", "g.img"):
            (directory / name).touch()

    def path(self, name: str) -> str:
        return str(self.directory / name)

    def words(self, text: str) -> list[str]:
        """Split at spaces; `@name` is a file of the directory."""
        return text.replace("@", f"{self.directory}/").split()

    def good(self, text: str | Sequence[str]) -> VmConfig:
        """Parse a line after `-kernel` and a serial port, which most lines need."""
        words = self.words(text) if isinstance(text, str) else list(text)
        if "-kernel" not in words:
            words += ["-kernel", self.path("vmlinux.bin")]
        if not {"-serial", "-daemonize"} & set(words):
            words += ["-serial", "stdio"]
        config = parse(words)
        assert isinstance(config, VmConfig)
        return config

    def bad(self, text: str | Sequence[str]) -> str:
        """Return what a person would read about a wrong line."""
        with pytest.raises(VmmError) as caught:
            self.good(text)
        message = describe(caught.value)
        assert "Traceback" not in message
        return message
