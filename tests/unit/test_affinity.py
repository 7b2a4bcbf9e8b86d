"""Beginning on the starter's CPU must not keep anything there."""

from __future__ import annotations

import os

import pytest

from vmm_core.affinity import ThisCpu


def test_the_starter_may_run_where_it_might_before() -> None:
    before = os.sched_getaffinity(0)
    with ThisCpu() as cpu:
        assert len(os.sched_getaffinity(0)) == 1
        assert cpu.allowed == before
    assert os.sched_getaffinity(0) == before


def test_even_when_the_start_fails() -> None:
    before = os.sched_getaffinity(0)
    with pytest.raises(FileNotFoundError), ThisCpu():
        os.posix_spawn("/nonexistent", ["x"], {})
    assert os.sched_getaffinity(0) == before
