"""Write the image of the start path (`vmm_core/start_image.py`): the modules that a VM's first instruction waits for.

They are found by importing them, in an interpreter that is as bare as the launcher's.
"""

from __future__ import annotations

import sys

BARE = set(sys.modules)

import os  # noqa: E402 - after the look at what an interpreter has by itself

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

    from vmm_core.start_image import Entry

# What the functions on the way import when they need it; what these import in turn comes by itself.
STARTS = (
    *("vmm_core.cli", "vmm_core.main", "vmm_core.sockets", "vmm_core.sandbox", "vmm_core.signals", "vmm_core.vm"),
    *("vmm_core.config.lexer", "vmm_core.config.builder", "vmm_core.config.machine", "vmm_core.config.memory"),
    *("vmm_core.config.boot", "vmm_core.config.drive", "vmm_core.config.devices.block", "vmm_core.config.monitor"),
    *("vmm_core.config.chardev", "vmm_core.accel.probe", "vmm_core.accel.kvm.vm", "vmm_core.accel.kvm.warm"),
    *("vmm_core.boot.elf", "vmm_core.chardev.open", "vmm_core.chardev.stdio"),
    *("vmm_core.supervisor.spawner", "ipc.confine.seccomp"),
)


# As the launcher has it.
PROGRAM = """import sys
sys.path += [{root!r}, {packages!r}]
from tools.setup.start_image import write
write({target!r})
"""


def write(target: str) -> None:
    """Import the start path and write its image at `target`."""
    for name in STARTS:
        __import__(name)
    from vmm_core import start_image

    loaded = {name: module for name, module in sorted(sys.modules.items()) if name not in BARE}
    entries = {name: _entry(module) for name, module in loaded.items() if name.partition(".")[0] != "tools"}
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(f"{target}.new", "wb") as file:
        file.write(start_image.pack({name: entry for name, entry in entries.items() if entry}))
    os.replace(f"{target}.new", target)


def _entry(module: ModuleType) -> Entry | None:
    """What the image holds of a module; None for one that the interpreter itself holds."""
    file = getattr(module, "__file__", None)
    if not file or getattr(module.__spec__, "origin", None) == "frozen":
        return None
    info = os.stat(file)
    code = None
    if file.endswith(".py"):
        with open(file, "rb") as source:
            code = compile(source.read(), file, "exec", dont_inherit=True)
    return file, info.st_mtime_ns, info.st_size, hasattr(module, "__path__"), code


def main(target: str) -> int:
    """Write the image at `target`, by a bare interpreter."""
    import sysconfig

    from tools.paths import ROOT

    program = PROGRAM.format(root=str(ROOT), packages=sysconfig.get_path("platlib"), target=target)
    return os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-I", "-S", "-c", program])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
