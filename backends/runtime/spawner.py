"""The warm process that backends are forked from, started by the core before guest memory exists.

`main` imports every backend's code and then forks the *keeper*, the first process of the backends' PID namespace
(`backends/runtime/keeper.py`); the keeper forks the spawner proper, which is this module's `Spawner`. So the spawner's death
costs no backend anything and the keeper makes a new one out of warm pages, without the core having to start a program.

The spawner is single-threaded and has one job, which makes it a fork server: each backend is a `multiprocess` Process of the
fork context.
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import sys
from _socket import socket
from typing import TYPE_CHECKING, Any, NamedTuple

from backends.runtime import keeper, life, sandbox
from ipc import spawn
from ipc.errors import PeerClosed, WireError
from ipc.fds import close_all

if TYPE_CHECKING:
    from types import ModuleType

    from ipc.spawn import Message

REPORT_LIMIT = 4096  # bytes of what a new backend says about its sandbox


def main(control: int, lifeline: int, kinds: list[str]) -> int:
    """Preload `kinds`, then leave the keeper behind and return. `control` is the socket to the core."""
    modules = {kind: load(kind) for kind in kinds}
    process_class = fork_process_class()
    gc.collect()
    gc.freeze()
    missing = sandbox.own_pid_namespace()
    if os.fork() == 0:
        sock = socket(fileno=control)
        keeper.Keeper(sock, lifeline, lambda: Spawner(sock, modules, process_class, missing).run()).run()
    return 0


def load(kind: str) -> ModuleType:
    """The module with `serve(fds, options)`: `backends.KIND.main`, or KIND itself if it has dots."""
    return importlib.import_module(kind if "." in kind else f"backends.{kind}.main")


def fork_process_class() -> Any:
    """`multiprocess`'s Process that forks, imported without dill.

    dill is 67 of the 78 ms that the import takes, for pickling what a fork inherits anyway; when there is none,
    `multiprocess` makes do with pickle.
    """
    modules: dict[str, Any] = sys.modules
    modules.setdefault("dill", None)
    from multiprocess import popen_fork
    from multiprocess.context import ForkProcess

    if modules["dill"] is None:
        del modules["dill"]
    assert popen_fork  # imported here, as ForkProcess would only when it forks for the first time
    return ForkProcess


class _Child(NamedTuple):
    identity: int
    process: Any
    pidfd: int


class Spawner:
    """Answers the core until it hangs up."""

    def __init__(self, sock: socket, modules: dict[str, ModuleType], process_class: Any, missing: list[str]) -> None:
        self._socket = sock
        self._modules = modules
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
        except (KeyError, IndexError, ImportError, TypeError, ValueError, OSError) as error:
            reason = f"{type(error).__name__}: {error}"
            spawn.send(self._socket, {"op": "failed", "id": message.get("id"), "reason": reason})
        finally:
            close_all(fds)

    def _start(self, message: Message, fds: list[int]) -> None:
        identity = int(message["id"] or 0)
        kind = str(message["kind"])
        if kind not in self._modules:
            self._modules[kind] = load(kind)
        named = {name: fds[int(index or 0)] for name, index in spawn.section(message, "fd").items()}
        report, child_report = os.pipe()
        birth = life.Birth(
            kind,
            str(message["name"]),
            self._modules[kind].serve,
            policy_path(self._modules[kind]) if message["seccomp"] else None,
            named,
            spawn.section(message, "option"),
            named.pop("log"),
            named.pop("lifeline"),
            child_report,
            self._missing,
        )
        process = self._process_class(target=life.live, args=(birth,), name=birth.name)
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
        words = [word for word in text.split("\0") if word]
        message: Message = {"op": "confined", "id": self._reports.pop(pipe)}
        message.update({f"missing.{index}": word for index, word in enumerate(words)})
        self._poll.unregister(pipe)
        os.close(pipe)
        spawn.send(self._socket, message)

    def _report_exit(self, pidfd: int) -> None:
        child = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        child.process.join()
        spawn.send(self._socket, {"op": "exited", "pid": child.process.pid, "status": child.process.exitcode})
        child.process.close()


def policy_path(module: ModuleType) -> str:
    """`seccomp.policy` in the module's directory."""
    return os.path.join(os.path.dirname(module.__file__ or ""), "seccomp.policy")


__all__ = ["Spawner", "WireError", "fork_process_class", "load", "main", "policy_path"]
