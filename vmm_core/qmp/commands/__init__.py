"""All QMP commands, one module per family; importing this package registers them."""

from __future__ import annotations

from vmm_core.qmp import backends, confinement, disks, resources
from vmm_core.qmp.commands import descriptors, lifecycle, machine, probes

__all__ = ["backends", "confinement", "descriptors", "disks", "lifecycle", "machine", "probes", "resources"]
