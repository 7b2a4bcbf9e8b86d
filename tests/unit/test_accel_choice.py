"""Which accelerator a VM gets, and the reason a user is given for it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from vmm_core.accel import probe, topology
from vmm_core.config.records import CpuTopology

FAST, SLOW = 900.0, 1.04


def measured(monkeypatch: pytest.MonkeyPatch, *speeds: float) -> list[float]:
    """Let each measurement give the next of `speeds`; returns those not asked for."""
    left = list(speeds)
    monkeypatch.setattr(probe, "_measure_once", lambda device: left.pop(0))
    return left


@pytest.mark.parametrize("name", ["tcg", "test"])
def test_an_accelerator_other_than_kvm_is_taken_without_a_look_at_kvm(name: str) -> None:
    assert probe.choose(name, "/nonexistent/kvm") == (name, "requested")


def test_auto_takes_a_kvm_that_runs_guest_code(monkeypatch: pytest.MonkeyPatch) -> None:
    left = measured(monkeypatch, FAST, SLOW)
    assert probe.choose("auto") == ("kvm", "KVM runs guest code at 900.0 million instructions per second")
    assert left == [SLOW]


def test_auto_does_without_a_kvm_that_emulates_and_says_how_slow_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, SLOW, SLOW)
    name, reason = probe.choose("auto")
    assert name == "tcg"
    assert "1.0 million instructions per second" in reason


def test_one_slow_measurement_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, SLOW, FAST)
    assert probe.choose("auto")[0] == "kvm"


def test_a_kvm_that_gets_nowhere_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, 0.0)
    name, reason = probe.choose("auto")
    assert (name, "less than 0.1 million" in reason) == ("tcg", True)


def test_auto_without_kvm_says_so(tmp_path: Path) -> None:
    name, reason = probe.choose("auto", str(tmp_path / "kvm"))
    assert (name, "does not exist on this host" in reason) == ("tcg", True)


def test_a_requested_kvm_is_not_measured_but_a_known_slow_one_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    measured(monkeypatch)
    monkeypatch.setattr(probe, "PVM_MODULE", str(tmp_path / "kvm_pvm"))
    assert probe.choose("kvm") == ("kvm", "requested")
    (tmp_path / "kvm_pvm").mkdir()
    name, reason = probe.choose("kvm")
    assert (name, "very slow" in reason) == ("kvm", True)


@pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no usable /dev/kvm on this machine")
def test_the_real_probe_is_quick_and_leaves_nothing_behind() -> None:
    before = os.listdir("/proc/self/fd")
    start = time.process_time()
    name, reason = probe.choose("auto")
    assert time.process_time() - start < 0.25
    assert name in ("kvm", "tcg")
    assert "million instructions per second" in reason
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"cores": 4}, [0, 1, 2, 3]),
        ({"cores": 2, "threads": 2}, [0, 1, 2, 3]),
        ({"sockets": 2, "cores": 3}, [0, 1, 2, 4, 5, 6]),
        ({"dies": 2, "clusters": 3, "threads": 2}, [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]),
    ],
)
def test_apic_ids_leave_room_for_counts_that_are_no_powers_of_two(counts: dict[str, int], expected: list[int]) -> None:
    cpus = CpuTopology(cpus=len(expected), max_cpus=len(expected), **counts)
    assert topology.apic_ids(cpus, len(expected)) == expected


def test_a_topology_with_too_many_gaps_is_shown_flat() -> None:
    cpus = CpuTopology(cpus=250, max_cpus=250, sockets=50, cores=5)
    assert topology.levels(cpus) == (1, 250, 1, 1)
    assert topology.apic_ids(cpus, 250) == list(range(250))
