"""Which version QMP reports: StratoVirt's interface (facts 2.1), and ours as the package."""

from __future__ import annotations

STRATOVIRT = "2.5.0"
VERSION = {"qemu": {"micro": 1, "minor": 0, "major": 5}, "package": f"StratoVirt-{STRATOVIRT}"}
