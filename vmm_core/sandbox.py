"""The core's own confinement (design section 1): no new programs, no tracing, no mounts, no odd sockets."""

from __future__ import annotations

import os

from vmm_core import log
from vmm_core.errors import VmmError

POLICY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "core.policy")


def install(enabled: bool) -> None:
    """Put `core.policy` in force for all threads: once the machine is built, before the guest's first instruction.

    The spawner must have been started; nothing can be started afterwards. `enabled` is false with `-disable-seccomp`.
    VmmError when the kernel refuses: a VM that was to be confined does not run without.
    """
    if not enabled:
        log.info("seccomp filters are off (-disable-seccomp)")
        return
    from ipc.confine.seccomp import compile_policy

    try:
        compile_policy(POLICY).load()
    except OSError as error:
        raise VmmError(f"cannot install the seccomp filter: {error.strerror}; -disable-seccomp runs without") from error
