"""Options of the whole suite, and its last words: how many tests were skipped, and for which reasons."""

from __future__ import annotations

from collections import Counter

import pytest
from _pytest.terminal import TerminalReporter


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("stratocell")
    group.addoption("--long", action="store_true", help="also run the soak tests: ten minutes of mixed load")
    group.addoption("--kills", type=int, default=50, help="how often each chaos test kills a backend")
    group.addoption("--accel", default="auto", help="accelerator of guest tests: auto, kvm or tcg")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("long"):
        return
    for item in items:
        if item.get_closest_marker("soak"):
            item.add_marker(pytest.mark.skip(reason="only in the long form (make test-long)"))


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Count and name the skips, so that a green run cannot hide what it left out."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(_reason(report) for report in skipped)
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"skipped {count}: {reason}")


def _reason(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return str(report.longrepr)
