"""Where things are in a checkout."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
GUEST = BUILD / "guest"
LOGS = BUILD / "logs"
VENV = ROOT / ".venv"
STRATOVIRT = VENV / "bin" / "stratovirt"
