"""From a policy file to a filter in force."""

from __future__ import annotations

import os

from ipc.confine._seccomp import ffi, lib
from ipc.confine.policy import Policy, PolicyError, Rule, read_policy


class Filter:
    """A compiled policy. `load` puts it in force for every thread of the process, irrevocably."""

    def __init__(self, policy: Policy) -> None:
        handle = lib.sc_filter_new(policy.default)
        if not handle:
            raise MemoryError("seccomp filter")
        self._handle = ffi.gc(handle, lib.sc_filter_free)
        for rule in policy.rules:
            if rule.action != policy.default:  # saying the default again is harmless, but libseccomp refuses it
                self._add(rule)
        self.length = lib.sc_filter_compile(self._handle)
        if self.length < 0:
            raise PolicyError(f"the seccomp filter cannot be compiled: {os.strerror(-self.length)}")

    def _add(self, rule: Rule) -> None:
        compares = ffi.new("struct sc_compare[]", len(rule.compares) or 1)
        for target, compare in zip(compares, rule.compares, strict=False):
            target.argument, target.op = compare.argument, compare.op
            target.value, target.masked = compare.value, compare.masked
        result = lib.sc_filter_rule(self._handle, rule.action, rule.number, compares, len(rule.compares))
        if result:
            raise PolicyError(f"{rule.place}: {rule.name}: {os.strerror(-result)}")

    def load(self) -> None:
        """From now on; OSError when the kernel refuses. A forbidden call then says its number and ends the process."""
        for result in (lib.sc_filter_announce_violations(), lib.sc_filter_load(self._handle)):
            if result:
                raise OSError(-result, os.strerror(-result))


def compile_policy(path: str) -> Filter:
    """Read and compile the policy file `path`; PolicyError says what is wrong in which file and line."""
    return Filter(read_policy(path))
