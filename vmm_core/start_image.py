"""The modules of the start path in one file, read and unmarshalled at once, in half the time of a hundred imports.

`python -m tools.setup.start_image` writes the file, the launcher calls `use`. Each module is compared with its source
as it is imported, by time and size like any .pyc: what has changed since, or is not in the image, comes from its own
file. Without an image everything does, slower. Of extensions the image knows the place, which saves the search.
"""

from __future__ import annotations

import marshal
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import ExtensionFileLoader
from posix import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType

    # File, its modification time in ns, its size, whether it is a package's, its code: None for an extension.
    Entry = tuple[str, int, int, bool, CodeType | None]

# Code and extensions are for one build of Python only.
STAMP = f"stratocell start image 1\n{sys.version}\n{sys.base_exec_prefix}\n".encode("utf-8", "surrogateescape")


class Importer:
    """Finder and loader of the modules in an image."""

    def __init__(self, modules: dict[str, Entry]) -> None:
        self._modules = modules

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        """Return where `name` comes from, or None: the next finder is asked."""
        entry = self._modules.get(name)
        if entry is None:
            return None
        file, modified, size, is_package, code = entry
        try:
            info = stat(file)
        except OSError:
            return None
        if info.st_mtime_ns != modified or info.st_size != size:
            return None
        if code is None:
            return ModuleSpec(name, ExtensionFileLoader(name, file), origin=file)
        # Two methods are all that the import system needs of a loader; `importlib.abc` costs milliseconds.
        spec = ModuleSpec(name, self, origin=file, is_package=is_package)  # type: ignore[arg-type]
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(file.rpartition("/")[0])
        return spec

    def create_module(self, _spec: ModuleSpec) -> None:
        """An ordinary module object will do."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the module. Its code is used once: the image lets go of it."""
        file, _modified, _size, _is_package, code = self._modules.pop(module.__name__)
        assert code is not None
        module.__file__ = file
        exec(code, module.__dict__)


def use(path: str) -> None:
    """Import from the image at `path` from now on; none, or one of another Python, is as good as an empty one."""
    try:
        with open(path, "rb", buffering=0) as file:
            data = file.read()
    except OSError:
        return
    if data.startswith(STAMP):
        sys.meta_path.insert(0, Importer(marshal.loads(memoryview(data)[len(STAMP) :])))


def pack(modules: dict[str, Entry]) -> bytes:
    """Return the content of an image."""
    return STAMP + marshal.dumps(modules)
