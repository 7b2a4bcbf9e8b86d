"""The rules that keep the rooms apart and the files readable."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

from tools.paths import ROOT

ROOMS = ("vmm_core", "backends", "ipc")
ALLOWED_ROOMS = {"ipc": {"ipc"}, "backends": {"backends", "ipc"}, "vmm_core": {"vmm_core", "ipc"}}
PYTHON_LINES, C_LINES, FUNCTION_LINES = 400, 600, 60
GPL_ROOM = "vmm_core/accel/tcg"


def tracked(*patterns: str) -> list[Path]:
    """Files that git knows, or that a tarball of them has."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    assert listing.returncode == 0, listing.stderr
    paths = [ROOT / name for name in listing.stdout.splitlines()]
    return [path for path in paths if path.is_file() and any(path.match(pattern) for pattern in patterns)]


def product(*patterns: str) -> list[Path]:
    return [path for path in tracked(*patterns) if path.relative_to(ROOT).parts[0] in ROOMS]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported_rooms(tree: ast.AST) -> set[str]:
    """Top-level packages that a module imports anywhere, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def test_rooms_import_only_what_the_design_allows() -> None:
    others = {*ROOMS, "tests", "tools"}
    wrong = []
    for path in product("*.py"):
        room = path.relative_to(ROOT).parts[0]
        crossing = imported_rooms(ast.parse(path.read_text())) & others - ALLOWED_ROOMS[room]
        wrong += [f"{relative(path)} imports {name}" for name in sorted(crossing)]
    assert wrong == []


def test_every_module_says_what_it_is_for() -> None:
    wrong = []
    for path in tracked("*.py"):
        tree = ast.parse(path.read_text())
        if tree.body and ast.get_docstring(tree) is None:
            wrong.append(f"{relative(path)}: no docstring")
    assert wrong == []


def test_every_module_postpones_annotations() -> None:
    wrong = [
        relative(path)
        for path in product("*.py")
        if (text := path.read_text()).strip() and ("def " in text or "class " in text)
        if "from __future__ import annotations" not in text
    ]
    assert wrong == []


@pytest.mark.parametrize(("pattern", "limit"), [("*.py", PYTHON_LINES), ("*.c", C_LINES), ("*.h", C_LINES)])
def test_files_stay_short_enough_to_read(pattern: str, limit: int) -> None:
    lengths = {relative(path): len(path.read_text().splitlines()) for path in tracked(pattern)}
    assert {name: length for name, length in lengths.items() if length > limit} == {}


def test_functions_stay_short_enough_to_read() -> None:
    wrong = []
    for path in tracked("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > FUNCTION_LINES:
                    wrong.append(f"{relative(path)}:{node.lineno} {node.name}: {length} lines")
    assert wrong == []


def test_c_files_name_their_licence() -> None:
    wrong = []
    for path in tracked("*.c", "*.h", "*.S"):
        wanted = "GPL-2.0-only" if relative(path).startswith(GPL_ROOM) else "MIT"
        if f"SPDX-License-Identifier: {wanted}" not in path.read_text()[:200]:
            wrong.append(f"{relative(path)}: no SPDX-License-Identifier: {wanted}")
    assert wrong == []


def test_no_file_names_a_place_of_the_machine_it_was_written_on() -> None:
    places = [str(ROOT) + "/"]
    wrong = []
    for path in tracked("*"):
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        wrong += [f"{relative(path)} contains {place}" for place in places if place in text]
    assert wrong == []


def test_nothing_is_left_unfinished() -> None:
    marks = ["TO" + "DO", "FIX" + "ME", "X" * 3 + ":"]
    wrong = [
        f"{relative(path)}: {mark}"
        for path in tracked("*.py", "*.c", "*.h", "*.sh", "*.md")
        for mark in marks
        if mark in path.read_text()
    ]
    assert wrong == []
