"""The zygote: the warm process that all others come from, a program of its own: nothing of the core's memory is in it.

`main` imports every backend's code and then has a *keeper*: the first process of the backends' PID namespace
(`backends/runtime/keeper.py`), which forks the spawner proper. The zygote is in none of these namespaces, so the death
of a keeper, which ends everybody in its own, leaves one who makes another out of warm pages: the core need not start a
program. It hears nobody: it waits for a child to end, or for the kernel to end it with the core.
"""

from __future__ import annotations

import gc
import os
import sys
from _socket import socket
from time import sleep
from typing import TYPE_CHECKING

from backends.runtime import keeper, sandbox, spawner
from backends.runtime._sandbox import lib
from backends.runtime.births import Births
from ipc.confine import seccomp
from ipc.confine._seccomp import lib as processes

if TYPE_CHECKING:
    from collections.abc import Callable

PID_DIGITS = 20
POLICY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "spawner.policy")


def main(control: int, lifeline: int, kinds: list[str], filtered: bool) -> int:
    """Preload `kinds`, then see that there is a keeper for as long as somebody has the other end of `lifeline`.

    `control` is the socket to the core. `filtered`: with `spawner.policy` in force, for this process and all that comes
    of it. Returns when a keeper cannot be had.
    """
    lib.sc_process_name(b"zygote")
    if lib.sc_group_lifeline(lifeline) < 0:
        return 1
    processes.sc_adopt_orphans()  # a keeper's parent ends at once
    loaded = {kind: spawner.load(kind) for kind in kinds}
    process_class = spawner.fork_process_class()
    gc.collect()
    gc.freeze()
    if filtered:
        seccomp.compile_policy(POLICY).load()
    sock = socket(fileno=control)

    def keep(missing: list[str]) -> None:
        keeper.Keeper(sock, lifeline, lambda: spawner.Spawner(sock, loaded, process_class, missing).run()).run()

    births = Births()
    while pid := _bear(keep):
        while os.wait()[0] != pid:
            pass  # without a PID namespace a dead keeper's children live on, as ours
        while pause := births.wait():
            sleep(pause)
    return 1


def _bear(keep: Callable[[list[str]], None]) -> int:
    """A keeper in namespaces of its own: its process id; 0 when it could not be made.

    Whoever makes a PID namespace cannot make a second one, so that is done by a process which is good for nothing else.
    """
    told, teller = os.pipe()
    parent = os.fork()
    if parent:
        os.close(teller)
        os.waitpid(parent, 0)
        pid = int(os.read(told, PID_DIGITS) or 0)
        os.close(told)
        return pid
    status = 1
    try:
        missing = sandbox.share_namespaces()
        pid = os.fork()
        if pid == 0:
            os.close(told)
            os.close(teller)
            keep(missing)
        os.write(teller, b"%d" % pid)
        status = 0
    except OSError as error:
        sys.stderr.write(f"there can be no keeper: {error.strerror}\n")
    finally:
        os._exit(status)
