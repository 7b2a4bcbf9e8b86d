"""Code run in a forked child after it was confined in some way, and what became of it."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

LIBC = ctypes.CDLL(None, use_errno=True)


class Outcome(NamedTuple):
    """`done`: no exception. `error`: errno of an OSError. `signal`: what killed it. `said`: its standard error."""

    done: bool
    error: int
    signal: str
    said: str


class _Worker:
    """A thread that was there before the confinement, and runs one function after it."""

    def __init__(self) -> None:
        self._go, self._done = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._done.acquire()
        self._function: Callable[[], object] = lambda: None
        self._failure: OSError | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        self._go.acquire()
        try:
            self._function()
        except OSError as failure:
            self._failure = failure
        self._done.release()

    def __call__(self, function: Callable[[], object]) -> None:
        self._function = function
        self._go.release()
        self._done.acquire()
        if self._failure is not None:
            raise self._failure


def syscall(*arguments: int) -> int:
    """Make a system call; OSError when it fails."""
    ctypes.set_errno(0)
    result = int(LIBC.syscall(*(ctypes.c_long(argument) for argument in arguments)))
    if result == -1:
        raise OSError(ctypes.get_errno(), "syscall")
    return result


def forked(confine: Callable[[], object], action: str) -> Outcome:
    """Fork, call `confine`, evaluate the expression `action` (`os`, `in_thread` and `syscall` are at hand)."""
    code = compile(action, "action", "eval")
    result, child_result = os.pipe()
    said, child_said = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(child_said, 2)
        worker = _Worker()
        number = 255
        try:
            confine()
            eval(code, {"os": os, "in_thread": worker, "syscall": syscall})
            number = 0
        except OSError as error:
            number = error.errno or 254
        finally:
            os.write(child_result, bytes([number]))
            os._exit(0)
    os.close(child_result)
    os.close(child_said)
    with os.fdopen(result, "rb") as results, os.fdopen(said, "rb") as lines:
        number_read, text = results.read(), lines.read().decode()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    name = signal.Signals(-status).name if status < 0 else ""
    code_read = number_read[0] if number_read else 0
    return Outcome(number_read == b"\0", code_read, name, text)
