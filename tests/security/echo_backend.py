"""A backend that does nothing but answer: what tests of the spawner and of the sandbox start.

Over the descriptor `vhost` a line is answered by the same line; `exit N`, `crash`, `spin`, `say TEXT` do as they say.
"""

from __future__ import annotations

import os
import sys

from backends.runtime import sandbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ipc.spawn import Message


def serve(fds: dict[str, int], options: Message) -> None:
    """The entry point that the spawner calls."""
    sandbox.seal()
    os.write(fds["vhost"], f"ready {options.get('greeting', '')}\n".encode())
    while line := os.read(fds["vhost"], 4096):
        words = line.decode().split()
        if words[0] == "exit":
            sys.exit(int(words[1]))
        elif words[0] == "crash":
            raise ValueError("as told")
        elif words[0] == "spin":
            while True:
                pass
        elif words[0] == "say":
            sys.stderr.write(line.decode()[4:])
            sys.stderr.flush()
        os.write(fds["vhost"], line)
