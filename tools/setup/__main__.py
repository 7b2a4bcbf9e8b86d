"""`python3 -m tools.setup run|test`: set up what running (or also testing) needs. Uses only the standard library."""

from __future__ import annotations

import sys
import tomllib

from tools.paths import ROOT, START_IMAGE, STRATOVIRT, VENV
from tools.progress import StepFailed
from tools.setup.steps import Step, run_steps

PYTHON = str(VENV / "bin" / "python")
PIP = [PYTHON, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
PACKAGES = ("vmm_core", "backends", "ipc")
C_FILES = ("*.c", "*.h", "build_*.py")
C_SOURCES = tuple(f"{place}/**/{name}" for place in ("vmm_core/native", "backends", "ipc") for name in C_FILES)
EXTENSIONS = tuple(
    f"{path}.*.so"
    for path in ("vmm_core/_native", "ipc/confine/_seccomp", "backends/runtime/_sandbox", "backends/blk/_blk")
)
SOFTWARE_CPU = "vmm_core/accel/tcg"
SOFTWARE_CPU_SOURCES = tuple(f"{SOFTWARE_CPU}/**/{name}" for name in ("*.c", "*.h", "*.patch", "*.py"))


def main(arguments: list[str]) -> int:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    steps = [*installing(project["dependencies"]), *building()]
    if arguments == ["test"]:
        steps.insert(2, pip_step("python-test-packages", "installing the test tools", extras["test"] + extras["dev"]))
    elif arguments != ["run"]:
        print("usage: python3 -m tools.setup run|test", file=sys.stderr)
        return 2
    try:
        run_steps(steps)
    except StepFailed as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


def pip_step(name: str, title: str, requirements: list[str]) -> Step:
    return Step(name, title, [*PIP, *requirements])


def installing(dependencies: list[str]) -> list[Step]:
    """The virtual environment and the libraries in it."""
    version = "{}.{}".format(*sys.version_info)
    make = [sys.executable, "-m", "venv", str(VENV)]
    return [
        Step("venv", "making the virtual environment", make, words=(version,), outputs=(".venv/bin/python",)),
        pip_step("python-packages", "installing the Python packages", ["setuptools>=68", "wheel", *dependencies]),
    ]


def building() -> list[Step]:
    """The program itself: C extensions, console script, software CPU, and the guest that `make run` boots."""
    editable = ["--no-build-isolation", "--no-deps", "--config-settings", "editable_mode=compat", "--editable", "."]
    project = ("pyproject.toml", "setup.py")
    return [
        Step(
            "install",
            "installing stratocell into the virtual environment",
            [*PIP, *editable],
            inputs=project,
            stale=EXTENSIONS,
            also_done=("extensions",),
        ),
        Step(
            "extensions",
            "building the C extensions",
            [PYTHON, "setup.py", "build_ext", "--inplace", "--force"],
            inputs=C_SOURCES,
            outputs=EXTENSIONS,
            stale=EXTENSIONS,
        ),
        Step(
            "launcher",
            "writing the launcher",
            [PYTHON, "-m", "tools.setup.launcher", str(STRATOVIRT), str(START_IMAGE)],
            inputs=("tools/setup/launcher.py", *project),
            words=(str(ROOT),),
            outputs=(".venv/bin/stratovirt",),
        ),
        Step(
            "software-cpu",
            "building the software CPU",
            [PYTHON, "-m", "vmm_core.accel.tcg.fetch"],
            inputs=(*SOFTWARE_CPU_SOURCES, "vmm_core/native/bus.h"),
            outputs=(f"{SOFTWARE_CPU}/_tcg*.so",),
        ),
        Step(
            "bytecode",
            "compiling",
            [PYTHON, "-m", "compileall", "-q", *PACKAGES],
            inputs=tuple(f"{package}/**/*.py" for package in PACKAGES),
        ),
        Step(
            "start-image",
            "writing the start image",
            [PYTHON, "-m", "tools.setup.start_image", str(START_IMAGE)],
            inputs=("tools/setup/start_image.py",),
            words=(sys.version, sys.base_exec_prefix),
            dated=tuple(f"{package}/**/{name}" for package in ("vmm_core", "ipc") for name in ("*.py", "*.so")),
            outputs=(str(START_IMAGE.relative_to(ROOT)),),
        ),
        Step(
            "guest",
            "building the guest",
            [PYTHON, "-m", "tools.guest"],
            inputs=("tools/guest/**/*",),
            outputs=tuple(f"build/guest/{name}" for name in ("vmlinuz", "initramfs.cpio", "root.ext4")),
        ),
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
