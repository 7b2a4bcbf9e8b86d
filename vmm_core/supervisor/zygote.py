"""Starting the zygote, the program that all processes of backends come from (`backends/runtime/zygote.py`)."""

from __future__ import annotations

import fcntl
import os
import sys

from ipc import spawn
from ipc.confine._seccomp import lib
from ipc.fds import close_all
from vmm_core.affinity import ThisCpu

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Sequence

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# What `python -m` would do, without `site`: it reads every .pth file of the environment, 2 ms that nobody needs.
PROGRAM = """import sys
sys.path[:0] = {paths!r}
from backends.runtime.zygote import main
sys.exit(main(3, 4, {kinds!r}, {seccomp!r}))
"""
# A held program waits for a line on its lifeline, or goes when that ends.
HELD = ["/bin/sh", "-c", 'read -r _ <&4 && exec "$0" "$@"']
# Neither names nor numbers of the core's environment are any of a backend's business. One malloc arena: less memory.
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MALLOC_ARENA_MAX": "1"}


def start(kinds: Sequence[str], log_end: int, held: bool, seccomp: bool) -> tuple[socket, int, int]:
    """Start the program; returns (our end of its socket, its lifeline, its pid). Takes `log_end` over.

    A `held` one begins when it reads a line from its lifeline, nothing of which it may read later.
    """
    lib.sc_adopt_orphans()  # of the zygote, should it die: ps, and whoever adds up what this VM uses, sees them as ours
    ours, theirs = spawn.channel()
    lifeline, our_lifeline = os.pipe2(os.O_CLOEXEC)
    # Out of the way of the numbers that they are to have in the child.
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (log_end, theirs.fileno(), lifeline)]
    paths = [ROOT, *(path for path in sys.path if path.endswith("-packages"))]
    actions = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)]
    wanted = ((high[0], 1), (high[0], 2), (high[1], 3), (high[2], 4))
    program = [sys.executable, "-I", "-S", "-c", PROGRAM.format(paths=paths, kinds=list(kinds), seccomp=seccomp)]
    words = HELD + program if held else program
    try:
        with ThisCpu() as cpu:
            pid = os.posix_spawn(
                words[0],
                words,
                ENVIRONMENT,
                file_actions=[*actions, *((os.POSIX_SPAWN_DUP2, source, target) for source, target in wanted)],
                setsid=True,  # a terminal's Ctrl-C and hang-up are for the core to deal with
                setsigmask=[],
            )
        os.sched_setaffinity(pid, cpu.allowed)
    finally:
        close_all([*high, log_end, lifeline])
        theirs.close()
    return ours, our_lifeline, pid
