"""From a policy to the instructions that the kernel runs, by libseccomp."""

from __future__ import annotations

import os

from ipc.confine._seccomp import ffi, lib
from ipc.confine.policy import Policy, PolicyError, Rule

INSTRUCTION = 8  # bytes of a struct sock_filter


def compile_rules(policy: Policy) -> bytes:
    """Return the program; PolicyError when libseccomp cannot make one of it."""
    handle = lib.sc_filter_new(policy.default)
    if not handle:
        raise MemoryError("seccomp filter")
    try:
        for rule in policy.rules:
            if rule.action != policy.default:  # saying the default again is harmless, but libseccomp refuses it
                _add(handle, rule)
        length = lib.sc_filter_compile(handle)
        if length < 0:
            raise PolicyError(f"{policy.files[0]}: the filter cannot be compiled: {os.strerror(-length)}")
        return bytes(ffi.buffer(lib.sc_filter_code(handle), length * INSTRUCTION))
    finally:
        lib.sc_filter_free(handle)


def _add(handle: object, rule: Rule) -> None:
    compares = ffi.new("struct sc_compare[]", len(rule.compares) or 1)
    for target, compare in zip(compares, rule.compares, strict=False):
        target.argument, target.op = compare.argument, compare.op
        target.value, target.masked = compare.value, compare.masked
    result = lib.sc_filter_rule(handle, rule.action, rule.number, compares, len(rule.compares))
    if result:
        raise PolicyError(f"{rule.place}: {rule.name}: {os.strerror(-result)}")
