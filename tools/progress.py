"""Long steps: a spinner in a terminal, a plain line elsewhere; their output goes to a log that only a failure shows."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tools.paths import LOGS, ROOT

FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
QUIET_SECONDS = 2.0  # steps shorter than this say nothing
LOG_TAIL_LINES = 40
COMMAND_WIDTH = 300


class StepFailed(Exception):
    """A step's command failed; the message is for a person."""


def run_step(name: str, title: str, command: list[str], cwd: Path = ROOT, env: dict[str, str] | None = None) -> float:
    """Run `command`, logging to build/logs/NAME.log; returns its seconds. StepFailed shows the end of the log."""
    LOGS.mkdir(parents=True, exist_ok=True)
    log_path = LOGS / f"{name}.log"
    began = time.monotonic()
    with log_path.open("wb") as log:
        log.write(f"$ {shorten(' '.join(command))}\n".encode())
        log.flush()
        process = subprocess.Popen(
            command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            status = _watch(process, title, began)
        except BaseException:
            process.kill()
            process.wait()
            raise
    if status != 0:
        raise StepFailed(f"{_tail(log_path)}\n{title} failed (status {status}); the whole log is {log_path}")
    return time.monotonic() - began


def shorten(line: str) -> str:
    """A command that names hundreds of files, for the first line of a log."""
    return line if len(line) <= COMMAND_WIDTH else f"{line[:COMMAND_WIDTH]} ..."


def _watch(process: subprocess.Popen[bytes], title: str, began: float) -> int:
    terminal = sys.stdout.isatty()
    announced = False
    frame = 0
    while True:
        try:
            status = process.wait(0.1 if terminal else QUIET_SECONDS)
            break
        except subprocess.TimeoutExpired:
            elapsed = time.monotonic() - began
            if elapsed < QUIET_SECONDS:
                continue
        if terminal:
            print(f"\r{FRAMES[frame % len(FRAMES)]} {title} {elapsed:.0f} s ", end="", flush=True)
            frame += 1
        elif not announced:
            print(f"{title} ...", flush=True)
        announced = True
    if announced:
        mark = "done" if status == 0 else "failed"
        line = f"{title}: {mark} in {time.monotonic() - began:.0f} s"
        print(f"\r\033[K{line}" if terminal else line, flush=True)
    return status


def _tail(log_path: Path) -> str:
    lines = log_path.read_text(errors="replace").splitlines()
    return "\n".join(lines[-LOG_TAIL_LINES:])
