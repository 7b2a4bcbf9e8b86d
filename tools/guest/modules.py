"""Kernel modules and their dependencies, read from the modules: depmod has not run on an unpacked package."""

from __future__ import annotations

from pathlib import Path


class ModuleTree:
    """The modules below one /lib/modules/VERSION; names use underscores, as the kernel's own list does."""

    def __init__(self, directory: Path) -> None:
        self._paths = {path.stem.replace("-", "_"): path for path in directory.rglob("*.ko")}

    def path(self, name: str) -> Path:
        return self._paths[name]

    def load_order(self, wanted: list[str]) -> list[str]:
        """`wanted` and all they depend on, dependencies first. A name without a module is built in: left out."""
        order: list[str] = []
        for name in wanted:
            self._visit(name.replace("-", "_"), order)
        return order

    def _visit(self, name: str, order: list[str]) -> None:
        if name in order or name not in self._paths:
            return
        for dependency in depends(self._paths[name].read_bytes()):
            self._visit(dependency, order)
        order.append(name)


def depends(module: bytes) -> list[str]:
    """The `depends=` entry of a module's .modinfo section."""
    start = module.find(b"\0depends=")
    if start < 0:
        return []
    start += len(b"\0depends=")
    names = module[start : module.index(b"\0", start)].decode("ascii")
    return [name.replace("-", "_") for name in names.split(",") if name]
