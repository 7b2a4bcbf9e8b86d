"""Wait for a server's unix socket without using up its one connection."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

ACCEPTING = "00010000"  # __SO_ACCEPTCON in /proc/net/unix
LIMIT = 20.0


def is_listening(path: Path) -> bool:
    rows = (line.split() for line in Path("/proc/net/unix").read_text().splitlines())
    return any(len(row) == 8 and row[7] == str(path) and row[3] == ACCEPTING for row in rows)


def wait_until_listening(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Return when somebody listens at `path`; RuntimeError when `process` ends first, TimeoutError when it is slow."""
    end = time.monotonic() + LIMIT
    while not is_listening(path):
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} exited with {process.returncode}")
        if time.monotonic() > end:
            raise TimeoutError(f"{process.args!r} does not listen on {path}")
        time.sleep(0.01)
