"""Build `ipc.confine._seccomp`: system call filters. The header is also the cffi definition."""

from __future__ import annotations

import re
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent


def declarations(header: str) -> str:
    """What cffi understands of a header: constants and prototypes, without comments and other preprocessor lines."""
    text = re.sub(r"/\*.*?\*/", "", (HERE / header).read_text(), flags=re.DOTALL)
    return re.sub(r"^#(?!define SC_(ACT|SYS)).*$", "", text, flags=re.MULTILINE)


ffi = FFI()
ffi.cdef(declarations("seccomp.h"))
ffi.set_source(
    "ipc.confine._seccomp",
    '#include "ipc/confine/seccomp.h"',
    sources=["ipc/confine/seccomp.c"],
    depends=["ipc/confine/seccomp.c", "ipc/confine/seccomp.h"],
    include_dirs=["."],
    libraries=["seccomp"],
    extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden"],
)

if __name__ == "__main__":
    ffi.compile(verbose=True)
