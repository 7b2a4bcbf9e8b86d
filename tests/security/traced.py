"""Which rules of which policy a workload uses, as strace sees it.

Every call of a process under filters is looked up in each of their policies: those it loaded, and those it inherited.
Whose filter a process loads follows from its name at that moment: `blk:...`, the core's, or the program's.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ipc.confine.policy import ALLOW, MASKED, OPERATORS, SELF, Compare, Rule, read_policy
from tools.paths import ROOT

STRACE = (
    *("strace", "-f", "-qq", "--decode-pids=comm,pidns", "-e", "signal=none"),
    *("-e", "raw=!clone,clone3,fork,vfork,execve", "-s", "500"),
)
LINE = re.compile(r"(?P<pid>\d+)<(?P<comm>.*?)> (?P<name>\w+)\((?P<arguments>.*)")
RESUMED = re.compile(r"(?P<pid>\d+)<(?P<comm>.*?)> <\.\.\. (?P<name>\w+) resumed>(?P<rest>.*)")
BORN = re.compile(r"\) += (\w+)(?:<.*?>)?(?: /\* (\d+) in strace's PID NS \*/)?$")
CREATORS = ("clone", "clone3", "fork", "vfork")
MASK = (1 << 64) - 1
POLICIES = {
    "spawner": ROOT / "backends" / "runtime" / "spawner.policy",
    "blk": ROOT / "backends" / "blk" / "seccomp.policy",
    "standalone": ROOT / "backends" / "blk" / "standalone.policy",
    "core": ROOT / "vmm_core" / "core.policy",
}
PROGRAMS = (
    ("backends.runtime.zygote", "spawner"),
    ("backends.blk", "standalone"),
    ('"vmm_core"', "core"),
    ("/stratovirt", "core"),
)


class Call(NamedTuple):
    policies: frozenset[str]
    name: str
    arguments: tuple[int, ...]


class Process:
    """What its threads have in common."""

    def __init__(self, parent: Process | None = None) -> None:
        self.policies: frozenset[str] = parent.policies if parent else frozenset()
        self.command: str = parent.command if parent else ""


def trace(words: list[str], log: Path) -> None:
    """Run a program to its end under strace; CalledProcessError when it fails."""
    subprocess.run([*STRACE, "-o", str(log), *words], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def calls(log: Path) -> Iterator[Call]:
    """Each call under a filter, in order. A child may speak before its birth is told: its lines wait for that."""
    threads: dict[int, Process] = {}
    waiting: dict[int, list[str]] = {}
    creating: dict[int, str] = {}
    with log.open(errors="replace") as lines:
        for line in lines:
            yield from _line(line.rstrip("\n"), threads, waiting, creating)


def _line(
    line: str, threads: dict[int, Process], waiting: dict[int, list[str]], creating: dict[int, str]
) -> Iterator[Call]:
    found = LINE.match(line) or RESUMED.match(line)
    if found is None:
        return
    pid, name = int(found["pid"]), found["name"]
    if pid not in threads and threads:
        waiting.setdefault(pid, []).append(line)
        return
    process = threads.setdefault(pid, Process())
    if "arguments" in found.groupdict():
        yield from _call(process, found["comm"], name, found["arguments"])
        if name in CREATORS:
            creating[pid] = found["arguments"]
    if name in CREATORS and (born := BORN.search(line)):
        child = int(born[2] or born[1], 0)
        threads[child] = process if "CLONE_THREAD" in creating[pid] else Process(process)
        for late in waiting.pop(child, []):
            yield from _line(late, threads, waiting, creating)


def _call(process: Process, comm: str, name: str, arguments: str) -> Iterator[Call]:
    if process.policies:
        yield Call(process.policies, name, tuple(_numbers(arguments)))
    if name == "execve":
        process.command = arguments
    if name == "seccomp" and arguments.startswith("0x1,"):
        process.policies |= {_policy(process, comm)}


def _policy(process: Process, comm: str) -> str:
    if comm.startswith("blk:"):
        return "blk"
    return next((policy for word, policy in PROGRAMS if word in process.command), "")


def _numbers(arguments: str) -> Iterator[int]:
    for word in arguments.partition(")")[0].split(","):
        try:
            yield int(word.split("<")[0], 0) & MASK
        except ValueError:
            return


def used(log: Path) -> dict[str, set[str]]:
    """By policy: the rules that some call needed, as `FILE:LINE name #alternative`."""
    rules = {name: _by_name(path) for name, path in POLICIES.items()}
    found: dict[str, set[str]] = {name: set() for name in POLICIES}
    for call in calls(log):
        for policy in call.policies & found.keys():
            for key, rule in rules[policy].get(call.name, ()):
                if _matches(rule, call.arguments):
                    found[policy].add(key)
    return found


def all_rules(policy: str) -> set[str]:
    """Every alternative that permits something, or lets it fail harmlessly; traps are for whoever must not."""
    return {key for pairs in _by_name(POLICIES[policy]).values() for key, _rule in pairs}


def _by_name(path: Path) -> dict[str, list[tuple[str, Rule]]]:
    found: dict[str, list[tuple[str, Rule]]] = {}
    for rule in read_policy(str(path)).rules:
        if rule.action != ALLOW:
            continue
        pairs = found.setdefault(rule.name, [])
        pairs.append((f"{rule.name} #{len(pairs) + 1}", rule))
    return found


def _matches(rule: Rule, arguments: tuple[int, ...]) -> bool:
    return all(_holds(compare, arguments) for compare in rule.compares)


def _holds(compare: Compare, arguments: tuple[int, ...]) -> bool:
    if compare.argument >= len(arguments):
        return True  # strace left it out: decoded, not raw
    value = arguments[compare.argument]
    if compare.value == SELF:
        return True
    if compare.op == MASKED:
        return value & compare.value == compare.masked
    operators = {
        "!=": value != compare.value, "<": value < compare.value, "<=": value <= compare.value,
        "==": value == compare.value, ">=": value >= compare.value, ">": value > compare.value,
    }  # fmt: skip
    (word,) = [word for word, number in OPERATORS.items() if number == compare.op]
    return operators[word]


def main() -> None:
    """`python -m tests.security.traced LOG`: what no call in a log needed."""
    found = used(Path(sys.argv[1]))
    for policy in POLICIES:
        left = sorted(all_rules(policy) - found[policy])
        print(f"{policy}: {len(found[policy])} used, not used: {', '.join(left)}")


if __name__ == "__main__":
    main()
    os._exit(0)
