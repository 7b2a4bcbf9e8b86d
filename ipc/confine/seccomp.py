"""From a policy file to a filter in force.

Reading and compiling a policy takes 2 ms, and dirties memory that backends would inherit. So the program is kept beside
the policy as Python keeps bytecode, in `__pycache__`, for as long as no file that it was made from has changed.
"""

from __future__ import annotations

import os

from ipc.confine._seccomp import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION = "stratocell filter 2"
SELF = (0x5E1F5E1F).to_bytes(4, "little")  # as in policy.py


class Filter:
    """A compiled policy. `load` puts it in force for every thread of the process, irrevocably."""

    def __init__(self, program: bytes) -> None:
        self.program = program

    def load(self) -> None:
        """From now on; OSError when the kernel refuses. A forbidden call then says its number and ends the process."""
        program = self.program.replace(SELF, os.getpid().to_bytes(4, "little"))
        handle = lib.sc_filter_adopt(program, len(program))
        if not handle:
            raise MemoryError("seccomp filter")
        try:
            _check(lib.sc_filter_announce_violations())
            _check(lib.sc_filter_load(handle))
        finally:
            lib.sc_filter_free(handle)


def compile_policy(path: str) -> Filter:
    """The filter for the policy file `path`; PolicyError says what is wrong in which file and line."""
    program = _recall(path)
    if program is None:
        from ipc.confine.compiler import compile_rules
        from ipc.confine.policy import read_policy

        policy = read_policy(path)
        program = compile_rules(policy)
        _remember(path, policy.files, program)
    return Filter(program)


def _check(result: int) -> None:
    if result:
        raise OSError(-result, os.strerror(-result))


def _memory(path: str) -> str:
    return os.path.join(os.path.dirname(path), "__pycache__", os.path.basename(path) + ".bpf")


def _stamp(files: Sequence[str]) -> bytes:
    """A header that changes whenever a file does: `VERSION`, then a line for each file, then an empty one."""
    lines = [VERSION]
    for file in files:
        info = os.stat(file)
        lines.append(f"{info.st_mtime_ns} {info.st_size} {file}")
    return ("\n".join(lines) + "\n\n").encode("utf-8", "surrogateescape")


def _recall(path: str) -> bytes | None:
    try:
        with open(_memory(path), "rb") as file:
            header, _, program = file.read().partition(b"\n\n")
        lines = header.decode("utf-8", "surrogateescape").split("\n")
        files = [line.split(" ", 2)[2] for line in lines[1:]]
        fresh = bool(files) and header + b"\n\n" == _stamp(files)
    except (OSError, IndexError, UnicodeDecodeError):
        return None
    return program if fresh and program and len(program) % 8 == 0 else None


def _remember(path: str, files: Sequence[str], program: bytes) -> None:
    """Whoever may not write there compiles again next time."""
    target = _memory(path)
    new = f"{target}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(new, "wb") as file:
            file.write(_stamp(files) + program)
        os.replace(new, target)
    except OSError:
        pass
