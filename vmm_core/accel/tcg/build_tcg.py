# SPDX-License-Identifier: GPL-2.0-only
"""The cffi module `vmm_core.accel.tcg._tcg`: Unicorn, patched and linked in statically, and the PC around it.

A module of its own because of its licence, and because only `-accel tcg` pays for loading it.
"""

from __future__ import annotations

import re
from pathlib import Path

import cffi

PACKAGE = Path(__file__).resolve().parent
NATIVE = PACKAGE / "native"
ROOT = PACKAGE.parents[2]
ENGINE = ROOT / "build" / "unicorn"
SOURCE = ENGINE / "src"
OBJECTS = ENGINE / "objects"
SOURCES = ("vm", "run", "engine", "cpu", "code", "dirty_log", "service", "lapic", "ioapic", "pic8259", "pit")
ENGINE_INCLUDES = (
    OBJECTS,
    SOURCE / "glib_compat",
    SOURCE / "qemu",
    SOURCE / "qemu/include",
    SOURCE / "include",
    SOURCE / "qemu/tcg",
    SOURCE / "qemu/tcg/i386",
    OBJECTS / "x86_64-softmmu",
    SOURCE / "qemu/target/i386",
)
ARCHIVES = ("libunicorn.a", "libx86_64-softmmu.a", "libunicorn-common.a")


def declarations() -> str:
    """Return what Python may call: the interface part of the two headers, without preprocessor lines."""
    bus = (PACKAGE.parents[1] / "native" / "bus.h").read_text()
    records = re.findall(r"^(?:struct sc_(?:irqchip|access|exit)|enum sc_exit_reason) \{.*?^\};", bus, re.M | re.S)
    own = (NATIVE / "tcg.h").read_text()
    boot = re.findall(r"^struct sc_tcg_(?:boot|topology) \{.*?^\};", own, re.M | re.S)
    calls = re.findall(r"^[a-z][^;{}#/]*\bsc_tcg_\w+\([^;]*\);", own, re.M)
    return "\n".join([*records, "struct sc_bus;", "struct tcg_vm;", *boot, *calls, "#define TCG_MAX_VCPUS ..."])


def builder() -> cffi.FFI:
    ffi = cffi.FFI()
    ffi.cdef(declarations())
    ffi.set_source(
        "vmm_core.accel.tcg._tcg",
        '#include "tcg.h"',
        sources=[str(NATIVE / f"{name}.c") for name in SOURCES],
        include_dirs=[str(NATIVE), str(PACKAGE.parents[1] / "native")],
        extra_compile_args=[
            "-std=gnu11",
            "-O2",
            "-Wall",
            "-Wextra",
            "-mcx16",
            "-fvisibility=hidden",
            "-DNDEBUG",
            "-DNEED_CPU_H",
            "-include",
            "x86_64.h",
            *[f"-isystem{path}" for path in ENGINE_INCLUDES],
        ],
        extra_objects=[str(OBJECTS / name) for name in ARCHIVES],
        extra_link_args=["-Wl,--exclude-libs,ALL"],
        libraries=["m", "pthread"],
    )
    return ffi
