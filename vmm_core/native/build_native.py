"""Build `vmm_core._native`: what runs on the core's vCPU threads. The headers here are also the cffi definitions."""

from __future__ import annotations

import re
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
HEADERS = ("bus.h", "uart.h", "kvm.h", "terminal.h")
KVM_SOURCES = ("kvm_vm.c", "kvm_vcpu.c", "kvm_cpuid.c", "kvm_boot.c", "kvm_early.c", "kvm_probe.c")
SOURCES = ("bus.c", "output.c", "uart.c", "terminal.c", *KVM_SOURCES)


def declarations(header: str) -> str:
    """What cffi understands of a header: everything but comments and preprocessor lines."""
    text = re.sub(r"/\*.*?\*/", "", (HERE / header).read_text(), flags=re.DOTALL)
    return re.sub(r"^#.*$", "", text, flags=re.MULTILINE)


def relative(name: str) -> str:
    """Source paths are given from the project's root, where setuptools runs."""
    return f"vmm_core/native/{name}"


ffi = FFI()
for _header in HEADERS:
    ffi.cdef(declarations(_header))
ffi.cdef("int sched_getcpu(void);")
ffi.set_source(
    "vmm_core._native",
    "".join(f'#include "{header}"\n' for header in HEADERS) + "#include <sched.h>\n",
    sources=[relative(name) for name in SOURCES],
    depends=[relative(name) for name in (*SOURCES, *HEADERS, "output.h", "kvm_internal.h")],
    include_dirs=["vmm_core/native"],
    extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden"],
)

if __name__ == "__main__":
    ffi.compile(verbose=True)
