"""`make picture`: records what `kill -9` does to a disk under load: docs/kill.svg, a terminal whose lines come in time.

Nothing in it is made up: the commands are run, the log is the VM's, the verdict is the guest's.
"""

from __future__ import annotations

import io
import random
import re
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import psutil
from rich.console import Console
from rich.text import Text

from tools.bench.machines import LIMIT, Machines, Started
from tools.bench.restart import DISK, READY, ours
from tools.paths import ROOT
from vmm_core.accel.probe import choose

PICTURE = ROOT / "docs" / "kill.svg"
KILLS = 8
LOAD = "blkverify /dev/vdb 8 6 8 direct"  # MiB, seconds, threads
WIDTH = 104
LOGGED = re.compile(r"(?:ERROR|INFO): (" + DISK + r": its backend .*)")
FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


class Line(NamedTuple):
    """`at`: seconds since the load began; `who`: whose terminal it is."""

    at: float
    who: str
    text: str


class Recorder:
    """Takes lines from any thread."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self._began = time.monotonic()

    def add(self, who: str, text: str) -> None:
        self.lines.append(Line(time.monotonic() - self._began, who, text))

    def follow(self, log: Path, ended: threading.Event) -> None:
        """Add what the VM's log says of the disk, as it says it."""
        with log.open() as file:
            file.seek(0, 2)
            while not ended.is_set():
                line = file.readline()
                if not line:
                    ended.wait(0.001)
                elif found := LOGGED.search(line):
                    self.add("log", found[1])


def record(directory: Path) -> tuple[list[Line], str]:
    """Run it; returns the lines, and the accelerator. TimeoutError and RuntimeError when the guest does not do well."""
    accelerator, _reason = choose("auto")
    disk, log = directory / "data.img", directory / "log"
    with disk.open("wb") as file:
        file.truncate(16 << 20)
    command = [*ours(Machines(directory, accelerator), disk), "-D", str(log)]
    started, ended = Started(command), threading.Event()
    try:
        started.wait_for(READY, LIMIT)
        recorder = Recorder()
        follower = threading.Thread(target=recorder.follow, args=(log, ended))
        follower.start()
        recorder.add("guest", f"# {LOAD}")
        started.type(f"{LOAD}\n")
        for _ in range(KILLS):
            time.sleep(random.uniform(0.3, 0.8))
            recorder.add("host", f"# {_kill(started)}")
        verdict = started.answer(rb"(VERIFY [^\r\n]*)\r?\n", LIMIT)[1].decode()
        recorder.add("guest", verdict)
        if not verdict.startswith("VERIFY ok"):
            raise RuntimeError(verdict)
    finally:
        ended.set()
        started.close()
    follower.join()
    return sorted(recorder.lines), accelerator


def _kill(started: Started) -> str:
    """SIGKILL for the disk's process; returns how one would type that."""
    family = psutil.Process(started.process.pid).children(recursive=True)
    victim = next(process for process in family if process.name() == f"blk:{DISK}")
    victim.kill()
    return f"kill -9 $(pgrep blk:{DISK})    # {victim.pid}"


def draw(lines: list[Line], accelerator: str) -> str:
    """The terminal as SVG, without fonts from elsewhere."""
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    colours = {"guest": "bold green", "host": "bold red", "log": "dim"}
    for line in lines:
        console.print(Text(f"{line.at:6.3f} s  ").append(f"{line.who:>5} ", colours[line.who]).append(line.text))
    deaths = sum("killed" in line.text for line in lines)
    title = f"{deaths} times kill -9 for the process of a disk under verified load ({accelerator})"
    svg = FONTS.sub("", console.export_svg(title=title, unique_id="kill"))
    return svg.replace("<style>", f"<style>\n{_animation(lines)}", 1)


def _animation(lines: list[Line]) -> str:
    """Each line appears when it was said; where nothing moves all are there."""
    rules = ["@keyframes kill-appear { from { opacity: 0 } to { opacity: 1 } }"]
    for number, line in enumerate(lines):
        place = f'[clip-path="url(#kill-line-{number})"]'
        rules.append(f"    {place} {{ animation: kill-appear 1ms {line.at:.3f}s both }}")
    return "    " + "\n".join(rules) + "\n"


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="picture-") as directory:
        lines, accelerator = record(Path(directory))
    PICTURE.write_text(draw(lines, accelerator))
    print("\n".join(f"{line.at:6.3f} s  {line.who:>5} {line.text}" for line in lines))
    print(f"drawn: {PICTURE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
