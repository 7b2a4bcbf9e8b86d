"""C extensions: each is one cffi API-mode module, described by the build script beside its sources."""

from setuptools import setup

setup(
    cffi_modules=[
        "vmm_core/native/build_native.py:ffi",
        "ipc/confine/build_seccomp.py:ffi",
        "backends/runtime/build_sandbox.py:ffi",
        "backends/blk/build_blk.py:ffi",
    ]
)
