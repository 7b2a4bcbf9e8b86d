"""Where things are in a checkout."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
GUEST = BUILD / "guest"
LOGS = BUILD / "logs"
VENV = ROOT / ".venv"
STRATOVIRT = VENV / "bin" / "stratovirt"
START_IMAGE = ROOT / "vmm_core" / "__pycache__" / f"start.{sys.implementation.cache_tag}.image"
