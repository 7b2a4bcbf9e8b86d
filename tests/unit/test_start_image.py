"""The start image: as fast as it is, it may never run code that is not what the source says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.test_start_path import EXAMPLE
from tools.paths import ROOT
from tools.setup import start_image as writer
from vmm_core import start_image

PROGRAM = """
import sys
sys.path += [{root!r}, {place!r}]
from vmm_core.start_image import use
use({image!r})
{rest}
"""


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """A module outside the project, and an image beside it that holds it with a value of its own."""
    path = tmp_path / "imaged.py"
    path.write_text("value = 'from the source'\n")
    info = path.stat()
    code = compile("value = 'from the image'\n", str(path), "exec")
    entry = (str(path), info.st_mtime_ns, info.st_size, False, code)
    (tmp_path / "image").write_bytes(start_image.pack({"imaged": entry}))
    return path


def run(place: Path, rest: str) -> str:
    program = PROGRAM.format(root=str(ROOT), place=str(place), image=str(place / "image"), rest=rest)
    result = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, cwd=place)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_a_module_comes_from_the_image_and_knows_its_file(module: Path) -> None:
    said = run(module.parent, "import imaged\nprint(imaged.value, imaged.__file__)")
    assert said == f"from the image {module}"


def test_a_source_that_changed_is_taken_instead_of_the_image(module: Path) -> None:
    info = module.stat()
    os.utime(module, ns=(info.st_atime_ns, info.st_mtime_ns + 1))
    assert run(module.parent, "import imaged\nprint(imaged.value)") == "from the source"
    module.write_text("value = 'longer'\n")
    os.utime(module, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert run(module.parent, "import imaged\nprint(imaged.value)") == "longer"


@pytest.mark.parametrize("python", [sys.version.encode(), sys.base_exec_prefix.encode()])
def test_the_image_of_another_python_is_left_alone(module: Path, python: bytes) -> None:
    image = module.parent / "image"
    content = image.read_bytes()
    assert python in content
    image.write_bytes(content.replace(python, b"another"))
    assert run(module.parent, "import imaged\nprint(imaged.value)") == "from the source"


def test_without_an_image_everything_comes_from_its_own_file(module: Path) -> None:
    image = module.parent / "image"
    image.write_bytes(b"")
    assert run(module.parent, "import imaged\nprint(imaged.value)") == "from the source"
    image.unlink()
    assert run(module.parent, "import imaged\nprint(imaged.value)") == "from the source"


def test_nothing_on_the_start_path_is_searched_for(tmp_path: Path) -> None:
    for name in ("vmlinux.bin", "rootfs.ext4"):
        (tmp_path / name).write_bytes(bytes(4096))
    assert writer.main(str(tmp_path / "image")) == 0
    watch = "\n".join(
        [
            "import vmm_core",
            "searched = []",
            "class Watch:",
            "    @staticmethod",
            "    def find_spec(name, path=None, target=None):",
            "        searched.append(name)",
            "sys.meta_path.insert(-1, Watch)",
            "from vmm_core.config import parse",
            f"parse({EXAMPLE!r})",
            *(f"import {name}" for name in writer.STARTS),
            "print(searched)",
        ]
    )
    assert run(tmp_path, watch) == "[]"
