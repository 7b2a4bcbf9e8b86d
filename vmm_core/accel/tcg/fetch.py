# SPDX-License-Identifier: GPL-2.0-only
"""Build the software CPU: `python -m vmm_core.accel.tcg.fetch`.

Fetches Unicorn's source release from PyPI, applies our patch, compiles the x86 part into `build/unicorn` and
links it with the shim into `vmm_core/accel/tcg/_tcg*.so`. A second run does nothing unless something changed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from vmm_core.accel.tcg import build_tcg

VERSION = "2.1.4"
SHA256 = "00567a70e323f749b419cd86bee4f9115beab7ebba32194581c090cbb7c59cff"
PATCH = build_tcg.PACKAGE / f"unicorn-{VERSION}-stratocell.patch"
CMAKE_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DCMAKE_POSITION_INDEPENDENT_CODE=ON",
    "-DUNICORN_ARCH=x86",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DUNICORN_LEGACY_STATIC_ARCHIVE=OFF",
    "-DUNICORN_BUILD_TESTS=OFF",
    "-DUNICORN_INSTALL=OFF",
    "-DUNICORN_FUZZ=OFF",
    "-DUNICORN_TRACER=OFF",
    "-DUNICORN_LOGGING=OFF",
)


def main() -> int:
    try:
        _step("engine.stamp", _engine_inputs(), _build_engine)
        _step("module.stamp", _module_inputs(), _build_module)
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        print(f"software CPU: {error}", file=sys.stderr)
        return 1
    return 0


def _say(text: str) -> None:
    print(f"software CPU: {text}", flush=True)


def _digest(parts: list[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def _engine_inputs() -> str:
    return _digest([VERSION.encode(), PATCH.read_bytes(), " ".join(CMAKE_OPTIONS).encode()])


def _module_inputs() -> str:
    files = sorted(build_tcg.NATIVE.glob("*.[ch]"))
    files += [build_tcg.PACKAGE.parents[1] / "native" / "bus.h", Path(build_tcg.__file__)]
    return _digest([_engine_inputs().encode(), sys.version.encode(), *[path.read_bytes() for path in files]])


def _step(stamp_name: str, inputs: str, build: object) -> None:
    """Run `build` unless the stamp file says that it ran with the same inputs."""
    stamp = build_tcg.ENGINE / stamp_name
    fresh = stamp.exists() and stamp.read_text() == inputs
    if fresh and (stamp_name != "module.stamp" or any(build_tcg.PACKAGE.glob("_tcg*.so"))):
        return
    build_tcg.ENGINE.mkdir(parents=True, exist_ok=True)
    assert callable(build)
    build()
    stamp.write_text(inputs)


def _run(*command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    """Run a quiet command; its output is shown only when it fails."""
    done = subprocess.run(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        raise subprocess.CalledProcessError(done.returncode, command[0])


def _download() -> Path:
    archive = build_tcg.ENGINE / f"unicorn-{VERSION}.tar.gz"
    if not archive.exists():
        _say(f"fetching unicorn {VERSION} (source release)")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        _run(*pip, "--no-deps", "--no-binary", "unicorn", "--dest", str(build_tcg.ENGINE), f"unicorn=={VERSION}")
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SHA256:
        archive.unlink()
        raise ValueError(f"the archive of unicorn {VERSION} has SHA-256 {found}, not {SHA256}")
    return archive


def _unpack(archive: Path) -> None:
    shutil.rmtree(build_tcg.SOURCE, ignore_errors=True)
    top = build_tcg.ENGINE / f"unicorn-{VERSION}"
    shutil.rmtree(top, ignore_errors=True)
    with tarfile.open(archive) as tar:
        members = [member for member in tar if member.name.startswith(f"unicorn-{VERSION}/src/")]
        tar.extractall(build_tcg.ENGINE, members)
    (top / "src").rename(build_tcg.SOURCE)
    top.rmdir()


def _build_engine() -> None:
    _unpack(_download())
    _say("patching")
    _run("patch", "--quiet", "--strip=1", f"--input={PATCH}", cwd=build_tcg.SOURCE)
    _say("compiling the engine (about 20 s)")
    shutil.rmtree(build_tcg.OBJECTS, ignore_errors=True)
    generator = "Ninja" if shutil.which("ninja") else "Unix Makefiles"
    _run("cmake", "-G", generator, "-S", str(build_tcg.SOURCE), "-B", str(build_tcg.OBJECTS), *CMAKE_OPTIONS)
    _run("cmake", "--build", str(build_tcg.OBJECTS), "--parallel", "2")


def _build_module() -> None:
    _say("compiling the module")
    place = build_tcg.ENGINE / "module"
    place.mkdir(exist_ok=True)
    code = "from vmm_core.accel.tcg import build_tcg; build_tcg.builder().compile(tmpdir='.')"
    # a process of its own, away from pyproject.toml, which setuptools would otherwise read and comment on
    _run(sys.executable, "-c", code, cwd=place, env={**os.environ, "PYTHONPATH": str(build_tcg.ROOT)})
    for built in place.glob("vmm_core/accel/tcg/_tcg*.so"):
        shutil.copy(built, build_tcg.PACKAGE)


if __name__ == "__main__":
    sys.exit(main())
