"""A backend with its code loaded from disk: the forked child becomes a fresh interpreter before it begins its life.

For rolling upgrades: the spawner has the code of its own start in memory, the disk may have a newer one. The process
id, and so the core's pidfd, stay; descriptors are inherited, what else a birth holds travels on the command line.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from backends.runtime import life, sandbox
from ipc.fds import close_all

PROGRAM = """import sys
sys.path[:0] = {paths!r}
from backends.runtime.rebirth import complete
complete(sys.argv[1])
"""
# In another installation the code is where its own Python finds it.
ELSEWHERE = """import sys
from backends.runtime.rebirth import complete
complete(sys.argv[1])
"""
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MALLOC_ARENA_MAX": "1"}


def begin(birth: life.Birth) -> None:
    """In the forked child: exec. Returns only by ending the process."""
    try:
        kept = {*birth.fds.values(), birth.log, birth.lifeline, birth.report}
        os.dup2(birth.log, 2)  # what goes wrong before the code is loaded is to be read, too
        for fd in kept:
            os.set_inheritable(fd, True)
        command = _command(birth.command)
        os.execve(command[0], [*command, _encode(birth)], ENVIRONMENT)
    except OSError as error:
        os.write(2, f"cannot load the code anew: {error.strerror}\n".encode())
    finally:
        os._exit(1)


def _command(python: str) -> list[str]:
    if python:
        return [python, "-I", "-c", ELSEWHERE]
    paths = [path for path in sys.path if path and os.path.isdir(path)]
    return [sys.executable, "-I", "-S", "-c", PROGRAM.format(paths=paths)]


def complete(text: str) -> None:
    """In the fresh interpreter: load the kind's code and live."""
    from backends.runtime.spawner import load

    values: dict[str, Any] = json.loads(text)
    filtered = values.pop("filtered")
    close_all(
        set(range(3, 1024)) - {*values["fds"].values(), *(values[name] for name in ("log", "lifeline", "report"))}
    )
    sandbox.joined_namespaces()
    code = load(values["kind"])
    life.live(life.Birth(serve=code.serve, policy=code.policy if filtered else None, **values))


def _encode(birth: life.Birth) -> str:
    values = birth._asdict()
    values["filtered"] = values.pop("policy") is not None
    del values["serve"]
    return json.dumps(values)
