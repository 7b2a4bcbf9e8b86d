"""The life of a backend process that the spawner forked: confine, tell how that went, serve, and end with one line."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, NamedTuple

from backends.runtime import sandbox
from backends.runtime._sandbox import lib
from backends.runtime.device import DeviceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipc.confine.seccomp import Filter
    from ipc.spawn import Message

    Serve = Callable[[dict[str, int], Message], None]


class Birth(NamedTuple):
    """What a backend is made from. `missing` is what of the sandbox the spawner could not have for all of them.

    `strict`: it ends rather than serve without the whole sandbox. `command`: the Python whose code it is to be.
    """

    kind: str
    name: str
    serve: Serve
    policy: Filter | None
    fds: dict[str, int]
    options: Message
    log: int
    lifeline: int
    report: int
    missing: list[str]
    strict: bool = False
    command: str = ""


def live(birth: Birth) -> None:
    """Be that backend until its end; the process is over when this returns."""
    status = 1
    try:
        _begin(birth)
        birth.serve(birth.fds, birth.options)
        status = 0
    except (DeviceError, sandbox.SandboxError) as error:
        _complain(str(error))
    except OSError as error:
        _complain(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error))
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except Exception as error:  # one line is all that fits between an empty root and the core's log
        _complain(f"internal error: {type(error).__name__}: {error}{_place(error)}")
    finally:
        os._exit(status)


def _begin(birth: Birth) -> None:
    os.dup2(birth.log, 1)
    os.dup2(birth.log, 2)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    lib.sc_process_name(f"{birth.kind.rpartition('.')[2]}:{birth.name}".encode()[:15])
    sandbox.prepare_filter(birth.policy)
    missing = birth.missing + sandbox.confine([*birth.fds.values(), birth.report], birth.lifeline)
    if birth.policy is None:
        missing.append(sandbox.LIFTED)
    os.write(birth.report, "\0".join([str(sandbox.landlock_level()), *missing]).encode())
    os.close(birth.report)
    if birth.strict and missing:
        raise sandbox.SandboxError(f"sandbox=strict, but the sandbox is without {'; '.join(missing)}")


def _complain(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _place(error: BaseException) -> str:
    """Where it was raised; the text of the line cannot be had, as there are no files any more."""
    trace = error.__traceback__
    place = ""
    while trace is not None:
        place = f" at {os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place
