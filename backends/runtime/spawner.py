"""The process that backends are forked from, out of warm pages, when the core asks for them.

It is the keeper's child (`backends/runtime/keeper.py`) and not the first process of the backends' namespace: so its
death costs none of them anything, and the keeper forks a new one. It is single-threaded and has one job, which makes it
a fork server: each backend is a `multiprocess` Process of the fork context.
"""

from __future__ import annotations

import importlib
import os
import select
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from backends.runtime import life, rebirth
from ipc import spawn
from ipc.confine import seccomp
from ipc.confine.policy import PolicyError
from ipc.errors import PeerClosed
from ipc.fds import close_all

if TYPE_CHECKING:
    from _socket import socket

    from ipc.spawn import Message

REPORT_LIMIT = 4096  # bytes of what a new backend says about its sandbox


class Kind(NamedTuple):
    """The code of one kind of backend, and its compiled policy (`seccomp.policy` beside the code)."""

    serve: life.Serve
    policy: seccomp.Filter


def load(name: str) -> Kind:
    """Import `backends.NAME.main`, or NAME itself if it has dots."""
    module = importlib.import_module(name if "." in name else f"backends.{name}.main")
    policy = os.path.join(os.path.dirname(module.__file__ or ""), "seccomp.policy")
    return Kind(module.serve, seccomp.compile_policy(policy))


def fork_process_class() -> Any:
    """`multiprocess`'s Process that forks, imported without what a fork has no use for.

    dill is 67 of the 78 ms that the import takes, for pickling what a fork inherits anyway; when there is none,
    `multiprocess` makes do with pickle. Of subprocess it wants one function, to start interpreters with.
    """
    modules: dict[str, Any] = sys.modules
    absent = {"dill": None, "subprocess": SimpleNamespace(_args_from_interpreter_flags=None)}
    put_in = [name for name, module in absent.items() if modules.setdefault(name, module) is module]
    from multiprocess import popen_fork
    from multiprocess.context import ForkProcess

    for name in put_in:
        del modules[name]
    assert popen_fork  # imported here, as ForkProcess would only when it forks for the first time
    return ForkProcess


class _Child(NamedTuple):
    identity: int
    process: Any
    pidfd: int


class Spawner:
    """Answers the core until it hangs up."""

    def __init__(self, sock: socket, kinds: dict[str, Kind], process_class: Any, missing: list[str]) -> None:
        self._socket = sock
        self._kinds = kinds
        self._process_class = process_class
        self._missing = missing
        self._children: dict[int, _Child] = {}  # by pidfd
        self._reports: dict[int, int] = {}  # read end of a pipe -> id
        self._poll = select.poll()

    def run(self) -> None:
        """Serve until the core is gone."""
        self._poll.register(self._socket.fileno(), select.POLLIN)
        try:
            while True:
                for fd, _events in self._poll.poll():
                    self._attend(fd)
        except PeerClosed:
            pass

    def _attend(self, fd: int) -> None:
        if fd in self._children:
            self._report_exit(fd)
        elif fd in self._reports:
            self._report_sandbox(fd)
        else:
            self._answer()

    def _answer(self) -> None:
        received = spawn.receive(self._socket)
        if received is None:
            return
        message, fds = received
        try:
            self._start(message, fds)
        except (KeyError, IndexError, ImportError, PolicyError, TypeError, ValueError, OSError) as error:
            reason = f"{type(error).__name__}: {error}"
            spawn.send(self._socket, {"op": "failed", "id": message.get("id"), "reason": reason})
        finally:
            close_all(fds)

    def _start(self, message: Message, fds: list[int]) -> None:
        identity = int(message["id"] or 0)
        kind = str(message["kind"])
        if kind not in self._kinds:
            self._kinds[kind] = load(kind)
        code = self._kinds[kind]
        named = {name: fds[int(index or 0)] for name, index in spawn.section(message, "fd").items()}
        report, child_report = os.pipe()
        birth = life.Birth(
            kind,
            str(message["name"]),
            code.serve,
            code.policy if message["seccomp"] else None,
            named,
            spawn.section(message, "option"),
            named.pop("log"),
            named.pop("lifeline"),
            child_report,
            self._missing,
            bool(message.get("strict")),
            str(message.get("command") or ""),
        )
        target = rebirth.begin if message.get("renewed") else life.live
        process = self._process_class(target=target, args=(birth,), name=birth.name)
        try:
            process.start()
        except OSError:
            os.close(report)
            raise
        finally:
            os.close(child_report)
        self._watch(identity, process, report)

    def _watch(self, identity: int, process: Any, report: int) -> None:
        child = _Child(identity, process, os.pidfd_open(process.pid))
        self._children[child.pidfd] = child
        self._reports[report] = identity
        for fd in (child.pidfd, report):
            self._poll.register(fd, select.POLLIN)
        spawn.send(self._socket, {"op": "started", "id": identity, "pid": process.pid}, [child.pidfd])

    def _report_sandbox(self, pipe: int) -> None:
        """What the new process could not have of its sandbox; nothing at all if it ended before it could say."""
        text = os.read(pipe, REPORT_LIMIT).decode("utf-8", "replace")
        identity = self._reports.pop(pipe)
        self._poll.unregister(pipe)
        os.close(pipe)
        if text:
            landlock, *missing = text.split("\0")
            told: Message = {"op": "confined", "id": identity, "landlock": int(landlock)}
            told.update({f"missing.{number}": word for number, word in enumerate(missing)})
            spawn.send(self._socket, told)

    def _report_exit(self, pidfd: int) -> None:
        child = self._children.pop(pidfd)
        for pipe in [pipe for pipe, identity in self._reports.items() if identity == child.identity]:
            self._report_sandbox(pipe)  # what it said before its end is told before its end
        self._poll.unregister(pidfd)
        os.close(pidfd)
        child.process.join()
        spawn.send(self._socket, {"op": "exited", "pid": child.process.pid, "status": child.process.exitcode})
        child.process.close()
