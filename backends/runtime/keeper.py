"""The keeper: first process of the backends' PID namespace, so that its end is the end of all of them.

It waits for three things. Its lifeline hangs up when the core is gone, however it went: then it ends, and the kernel
kills what is left in the namespace, stuck and stopped processes included. A dead spawner is replaced by a fork.
Backends that outlived their spawner are reaped here, and their exit status is told to the core.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
from typing import TYPE_CHECKING

from backends.runtime._sandbox import lib
from backends.runtime.births import Births
from ipc import spawn
from ipc.confine._seccomp import lib as processes
from ipc.errors import WireError

if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable


class Keeper:
    """`run` never returns. `spawner` is what a forked child does, until the core hangs up."""

    def __init__(self, sock: socket, lifeline: int, spawner: Callable[[], None]) -> None:
        self._socket = sock
        self._lifeline = lifeline
        self._spawner = spawner
        self._spawner_pid = 0
        self._generation = 0
        self._births = Births()
        self._wake, self._waker = os.pipe()

    def run(self) -> None:
        try:
            self._prepare()
            while not self._wait(self._tend()):
                pass
        finally:
            self._end()

    def _prepare(self) -> None:
        processes.sc_adopt_orphans()  # matters only where a PID namespace could not be had
        lib.sc_process_name(b"keeper")
        self._be_woken()
        for fd in (self._wake, self._waker):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)

    def _be_woken(self) -> None:
        """Have the kernel send SIGCONT when the core is gone: whoever stopped this process then stops no end of it.

        SIGKILL, as the zygote has it for everybody, would not do: the kernel keeps it from the first process of a
        namespace, but resumes that one, too. Who gets which signal belongs to the open file description, so this takes
        one of its own; without /proc there is none, and a stopped keeper stays.
        """
        try:
            own = os.open(f"/proc/self/fd/{self._lifeline}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return
        os.close(self._lifeline)
        self._lifeline = own
        fcntl.fcntl(self._lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(self._lifeline, fcntl.F_SETSIG, signal.SIGCONT)
        fcntl.fcntl(self._lifeline, fcntl.F_SETFL, fcntl.fcntl(self._lifeline, fcntl.F_GETFL) | os.O_ASYNC)

    def _tend(self) -> float | None:
        """Reap, and see that there is a spawner; returns in how many seconds to try again, None: that is not needed."""
        self._reap()
        if self._spawner_pid:
            return None
        wait = self._births.wait()
        if wait:
            return wait  # to end would end the backends, too
        self._fork_spawner()
        return None

    def _wait(self, limit: float | None) -> bool:
        """Wait for something to happen, or so many seconds; True when the core is gone."""
        poller = select.poll()
        poller.register(self._lifeline, 0)
        poller.register(self._wake, select.POLLIN)
        ready = [fd for fd, _events in poller.poll(None if limit is None else limit * 1000 + 1)]
        if self._wake in ready:
            os.read(self._wake, 512)
        return self._lifeline in ready

    def _fork_spawner(self) -> None:
        generation, self._generation = self._generation, self._generation + 1
        pid = os.fork()
        if pid:
            self._spawner_pid = pid
            self._announce(generation)
            return
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        lib.sc_process_name(b"spawner")
        for fd in (self._wake, self._waker, self._lifeline):
            os.close(fd)
        status = 1
        try:
            self._spawner()
            status = 0
        finally:
            os._exit(status)

    def _announce(self, generation: int) -> None:
        fds = [os.pidfd_open(os.getpid()), os.pidfd_open(self._spawner_pid)]
        self._tell({"op": "ready", "pid": self._spawner_pid, "generation": generation}, fds)
        for fd in fds:
            os.close(fd)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._spawner_pid:
                self._spawner_pid = 0
            else:
                self._tell({"op": "exited", "pid": pid, "status": os.waitstatus_to_exitcode(status)})

    def _tell(self, message: spawn.Message, fds: tuple[int, ...] | list[int] = ()) -> None:
        try:
            spawn.send(self._socket, message, fds, timeout=1.0)
        except WireError:
            pass  # the core is going; the lifeline will say so

    def _end(self) -> None:
        """As the first process of a namespace, ending is enough; else kill what was adopted, until nothing is left."""
        while os.getpid() != 1:
            with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as children:
                pids = [int(word) for word in children.read().split()]
            if not pids:
                break
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            for pid in pids:
                os.waitpid(pid, 0)
        os._exit(0)
