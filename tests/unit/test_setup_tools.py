"""`make setup` and `make run`: nothing is rebuilt for nothing, and the program starts from anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tools import run_demo
from tools.progress import StepFailed
from tools.setup import launcher, steps
from vmm_core import start_image

MakeStep = Callable[[str], steps.Step]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of its own, with one input."""
    monkeypatch.setattr(steps, "ROOT", tmp_path)
    monkeypatch.setattr(steps, "STAMPS", tmp_path / "stamps")
    (tmp_path / "input").write_text("one")
    return tmp_path


@pytest.fixture
def make_step(workplace: Path) -> MakeStep:
    def make(script: str) -> steps.Step:
        command = ["sh", "-c", f"cd '{workplace}' && {script}"]
        return steps.Step("unit-test", "a step", command, inputs=("input",), outputs=("output*",))

    return make


def test_a_step_runs_again_only_when_its_input_or_output_changed(workplace: Path, make_step: MakeStep) -> None:
    step = make_step("echo run >>output.so")

    def runs() -> int:
        steps.run_steps([step])
        return (workplace / "output.so").read_text().count("run")

    assert [runs(), runs()] == [1, 1]
    (workplace / "input").write_text("two")
    assert [runs(), runs()] == [2, 2]
    (workplace / "output.so").unlink()
    assert runs() == 1


def test_a_failed_step_shows_its_output_and_is_tried_again(workplace: Path, make_step: MakeStep) -> None:
    step = make_step("echo no space left; exit 3")
    for _ in range(2):
        with pytest.raises(StepFailed, match=r"no space left\n[^$]*status 3"):
            steps.run_steps([step])
    assert not step.is_done()


def _program(package: Path) -> None:
    """What the launcher needs besides `vmm_core.cli`."""
    package.mkdir()
    (package / "start_image.py").symlink_to(start_image.__file__)


@pytest.mark.parametrize("directory", ["plain", "with blanks in it", "with 'quotes'", "x" * 150])
def test_the_launcher_starts_from_any_path_and_through_a_link(tmp_path: Path, directory: str) -> None:
    place = tmp_path / directory
    place.mkdir()
    (place / "python").symlink_to(sys.executable)
    _program(place / "vmm_core")
    (place / "vmm_core" / "cli.py").write_text("import sys\ndef main(argv):\n    print(argv)\n    return 7\n")
    program = place / "stratovirt"
    program.write_text(launcher.launcher_text(str(place / "python"), str(place), "/nonexistent", "/nonexistent"))
    program.chmod(0o755)
    link = tmp_path / "link"
    link.symlink_to(program)
    for path in (program, link):
        result = subprocess.run([path, "-append", "a b", "*"], capture_output=True, text=True, cwd="/")
        assert (result.returncode, result.stdout) == (7, "['-append', 'a b', '*']\n"), result.stderr


def test_the_launcher_ignores_the_users_python_environment(tmp_path: Path) -> None:
    _program(tmp_path / "vmm_core")
    (tmp_path / "vmm_core" / "cli.py").write_text("def main(argv):\n    return 0\n")
    (tmp_path / "os.py").write_text("raise SystemExit('hijacked')\n")
    program = tmp_path / "stratovirt"
    program.write_text(launcher.launcher_text(sys.executable, str(tmp_path), "/nonexistent", "/nonexistent"))
    program.chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONSTARTUP": str(tmp_path / "os.py")}
    result = subprocess.run([program], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert (result.returncode, result.stderr) == (0, "")


def test_the_printed_command_can_be_pasted_into_a_shell() -> None:
    command = ["/a b/stratovirt", "-append", "console=ttyS0 rw", "-drive", "file=it's,id=x", "-S"]
    words = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {run_demo.printable(command)}"], capture_output=True, text=True, check=True
    )
    assert words.stdout.splitlines() == command
