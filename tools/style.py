"""`make style`: linters and compilers at their strictest, all of them, even after the first complaint."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

from tools.paths import BUILD, ROOT
from tools.progress import StepFailed, run_step

ROOMS = ("vmm_core", "backends", "ipc", "tools", "tests")
# The build scripts define _GNU_SOURCE; empty, so that a file may do it too.
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-std=gnu11", "-fsyntax-only", "-D_GNU_SOURCE="]


def main() -> int:
    failures = 0
    for name, title, command in checks():
        try:
            seconds = run_step(f"style-{name}", title, command)
            print(f"{title}: ok ({seconds:.1f} s)", flush=True)
        except StepFailed as failure:
            print(failure, flush=True)
            failures += 1
    print(f"{failures} style checks failed" if failures else "all style checks passed", flush=True)
    return 1 if failures else 0


def checks() -> list[tuple[str, str, list[str]]]:
    """(name, title, command) of every check."""
    python = sys.executable
    sources = c_sources()
    return [
        ("ruff", "ruff", [python, "-m", "ruff", "check", *ROOMS, "setup.py"]),
        ("mypy", "mypy --strict", [python, "-m", "mypy", "--strict"]),
        ("gcc", f"gcc {' '.join(WARNINGS[:3])}", ["gcc", *WARNINGS, *include_flags(), *map(str, sources)]),
        ("clang-format", "clang-format", ["clang-format", "--dry-run", "-Werror", *map(str, sources)]),
        ("codespell", "codespell", ["codespell", *tracked_texts()]),
        ("sh", "sh -n", ["sh", "-c", 'for f in "$@"; do sh -n "$f" || exit 1; done', "sh", *shell_scripts()]),
    ]


def c_sources() -> list[Path]:
    """Our C, without what cffi generates (a leading underscore) and what needs another project's private headers."""
    found = [path for room in ROOMS for path in (ROOT / room).rglob("*.c")]
    return sorted(path for path in found if not path.name.startswith("_") and "tcg" not in path.parts)


def include_flags() -> list[str]:
    ours = dict.fromkeys([ROOT, *(path.parent for path in c_sources())])
    return [f"-I{sysconfig.get_path('include')}", *(word for place in ours for word in ("-iquote", str(place)))]


def tracked_texts() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return [name for name in listed if not name.endswith(".patch") and (ROOT / name).exists()]


def shell_scripts() -> list[str]:
    return [name for name in tracked_texts() if name.endswith(".sh") or name == ".ci/run"]


if __name__ == "__main__":
    BUILD.mkdir(exist_ok=True)
    sys.exit(main())
