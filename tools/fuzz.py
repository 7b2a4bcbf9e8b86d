"""`python -m tools.fuzz [--seconds N] [ring|blk|sessions ...]`: hostile guests and hostile front-ends, for long.

`ring` and `blk` are libFuzzer, ASan and UBSan on the C code that reads guest memory; what they find that is new joins
the corpus in `tests/fuzz/corpus`, at its smallest. `sessions` is the state machine of vhost-user sessions.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tools.paths import ROOT

HARNESSES = ROOT / "tests" / "fuzz"
BUILD = ROOT / "build" / "fuzz"
NAMES = ("ring", "blk")
SESSIONS = "sessions"
STATE_MACHINE = ROOT / "tests" / "wire" / "test_session_machine.py"
EXAMPLES = 500  # sessions of one run of the state machine
LONGEST = 4096  # bytes of an input
RING = ("guest_memory", "virtqueue", "virtqueue_split", "virtqueue_packed", "inflight")
DISK = ("blk", "worker", "request", "execute", "throttle", "engine_uring", "engine_aio", "engine_sync")
FLAGS = (
    *("-g", "-O1", "-std=gnu11", "-D_GNU_SOURCE", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"),
    *("-fno-sanitize=alignment", "-Wno-deprecated"),  # guests choose where their structures lie, and x86 does not mind
)  # fmt: skip
LIBRARIES = ("-Wl,--wrap=write", "-luring", "-lpthread", "-lm")  # the first: see tests/fuzz/guest.h


def sources(name: str) -> list[str]:
    files = [HARNESSES / f"{name}.c", *(ROOT / "backends" / "runtime" / f"{each}.c" for each in RING)]
    if name == "blk":
        files += [ROOT / "backends" / "blk" / f"{each}.c" for each in DISK]
    return [str(file) for file in files]


def build(name: str, *, directory: Path = BUILD, instead: dict[str, Path] | None = None) -> Path:
    """The harness as a program, with other files `instead` of some; CalledProcessError when it does not compile."""
    directory.mkdir(parents=True, exist_ok=True)
    program = directory / name
    includes = [f"-I{ROOT / 'backends' / each}" for each in ("runtime", "blk")]
    files = [str((instead or {}).get(Path(file).name, file)) for file in sources(name)]
    command = ["clang", *FLAGS, *includes, *files, "-o", str(program), *LIBRARIES]
    subprocess.run(command, check=True)
    return program


def corpus(name: str) -> Path:
    return HARNESSES / "corpus" / name


def fuzz(name: str, seconds: int) -> int:
    """0, or the status of a run that found something; the input that did lies in `build/fuzz`."""
    program = build(name)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as grown:
        limits = [f"-max_len={LONGEST}", f"-artifact_prefix={BUILD}/{name}-", "-timeout=10"]
        run = [str(program), *limits, f"-max_total_time={seconds}", grown, str(corpus(name))]
        status = subprocess.run(run, check=False).returncode
        if status == 0:
            subprocess.run([str(program), *limits, "-merge=1", str(corpus(name)), grown], check=False)
    return status


def fuzz_sessions(seconds: int) -> int:
    """The state machine again and again with other random choices; the status of the first run that failed."""
    anew = "--hypothesis-profile=default"  # the one for CI makes the same choices each time
    command = [sys.executable, "-m", "pytest", "-q", "--timeout=600", anew, str(STATE_MACHINE)]
    environment = {**os.environ, "STRATOCELL_SESSION_EXAMPLES": str(EXAMPLES)}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        status = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        if status:
            return status
    return 0


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="for each harness")
    parser.add_argument("names", nargs="*", metavar="|".join((*NAMES, SESSIONS)))
    options = parser.parse_args(words)
    for name in options.names:
        if name not in (*NAMES, SESSIONS):
            parser.error(f"there is no harness {name!r}; there are {', '.join((*NAMES, SESSIONS))}")
    names = options.names or (*NAMES, SESSIONS)
    return max(fuzz_sessions(options.seconds) if name == SESSIONS else fuzz(name, options.seconds) for name in names)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
