"""Build `backends.runtime._sandbox`: what a backend process gives up. The header is also the cffi definition."""

from __future__ import annotations

import re
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
SOURCES = ("sandbox_namespaces.c", "sandbox_process.c")


def declarations(header: str) -> str:
    """What cffi understands of a header: constants and prototypes, without comments and other preprocessor lines."""
    text = re.sub(r"/\*.*?\*/", "", (HERE / header).read_text(), flags=re.DOTALL)
    return re.sub(r"^#(?!define SC_NS).*$", "", text, flags=re.MULTILINE)


def relative(name: str) -> str:
    """Source paths are given from the project's root, where setuptools runs."""
    return f"backends/runtime/{name}"


ffi = FFI()
ffi.cdef(declarations("sandbox.h"))
ffi.set_source(
    "backends.runtime._sandbox",
    '#include "sandbox.h"',
    sources=[relative(name) for name in SOURCES],
    depends=[relative(name) for name in (*SOURCES, "sandbox.h")],
    include_dirs=["backends/runtime"],
    extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden"],
)

if __name__ == "__main__":
    ffi.compile(verbose=True)
