"""Without root the sandbox stands too, on a user namespace; what the host does not permit is said, not hidden."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.security.cell import gone_within
from tools.paths import ROOT

PROGRAM = Path(__file__).with_name("core_program.py")
NOBODY = 65534
AS_NOBODY = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
PLACES = ("namespace", "root", "bounding", "Landlock", "limit")


def interpreter() -> str:
    """A Python of our version that an ordinary user may run, and a checkout that he may read."""
    check = f"import sys; assert sys.version_info[:2] == {sys.version_info[:2]}; open({str(PROGRAM)!r}).close()"
    for candidate in (sys.executable, f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}"):
        try:
            if subprocess.run([candidate, "-c", check], **AS_NOBODY, capture_output=True).returncode == 0:  # type: ignore[call-overload]
                return candidate
        except OSError:
            continue
    pytest.skip("no Python interpreter or no checkout that an unprivileged user may read")


def test_an_unprivileged_core_confines_its_backends_or_says_what_is_missing() -> None:
    environment = {"PYTHONPATH": f"{ROOT}:{sysconfig.get_path('platlib')}", "PYTHONDONTWRITEBYTECODE": "1"}
    core = subprocess.Popen(
        [interpreter(), str(PROGRAM), "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **AS_NOBODY,  # type: ignore[call-overload]
    )
    words = core.stdout.readline().rstrip("\n").split("\t")
    assert len(words) >= 5, core.stderr.read()
    pids, missing = [int(word) for word in words[:5]], words[5:]
    pidfds = [os.pidfd_open(pid) for pid in pids]
    try:
        assert all(any(place in line for place in PLACES) for line in missing), missing
        assert_given_up(pids[3], missing)
        assert_apart(pids[3:], missing)
    finally:
        core.kill()
        core.communicate()
    assert gone_within(pidfds, 1.0)
    for pidfd in pidfds:
        os.close(pidfd)


def assert_given_up(pid: int, missing: list[str]) -> None:
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as lines:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in lines if ":\t" in line)
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    if os.geteuid() == 0 and not missing:
        for kind in ("user", "mnt", "net", "pid", "ipc", "uts"):
            assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}"), kind
        assert os.listdir(f"/proc/{pid}/root") == []


def assert_apart(pids: list[int], missing: list[str]) -> None:
    """They are the same user, so what is counted by user is theirs alone only in a user namespace each."""
    if any("user namespace" in line for line in missing):
        assert any("limit of tasks" in line for line in missing)
        return
    for pid in pids:
        with open(f"/proc/{pid}/limits", encoding="ascii") as limits:
            (tasks,) = [line.split()[2] for line in limits if line.startswith("Max processes")]
        assert tasks == "128" or any("limit of tasks" in line for line in missing)
    if os.geteuid() == 0:
        assert len({os.readlink(f"/proc/{pid}/ns/user") for pid in pids}) == len(pids)
