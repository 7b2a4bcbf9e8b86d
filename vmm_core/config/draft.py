"""What the family modules collect from a command line before it is checked as a whole."""

from __future__ import annotations

from vmm_core.config.records import (
    ChardevConfig,
    CpuTopology,
    DriveConfig,
    IothreadConfig,
    MachineConfig,
    MonitorConfig,
)
from vmm_core.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from vmm_core.config.table import Body


class Draft:
    """A mutable configuration: typed and checked option by option, not yet checked between options."""

    def __init__(self) -> None:
        self.scalars: dict[str, Any] = {}
        self.machine = MachineConfig()
        self.accel: str | None = None
        self.cpus = CpuTopology()
        self.memory: dict[str, Any] = {}
        self.append: list[str] = []
        self.chardevs: list[ChardevConfig] = []
        self.serial: str | None = None
        self.drives: list[DriveConfig] = []
        self.netdevs: list[tuple[Body, dict[str, Any]]] = []
        self.devices: list[tuple[Body, dict[str, Any]]] = []
        self.iothreads: list[IothreadConfig] = []
        self.objects: dict[str, str] = {}  # every object's id, and its type
        self.backends: dict[str, dict[str, Any]] = {}  # -backend: what was given, by id
        self.monitors: list[MonitorConfig] = []
        self.monitor_chardev: str | None = None
        self.iothread_users: list[tuple[str, str]] = []  # (who, iothread's id)
        self.unbuilt: list[str] = []  # refused by name once the whole line is known to be well-formed


def add_unique(ids: Iterable[str], name: str, what: str) -> None:
    """Raise VmmError if `name` is already taken."""
    if name in ids:
        raise VmmError(f"{what} {name} has been added")
