"""Whether and when a backend that ended is started again, by its policy; time is what the test says."""

from __future__ import annotations

import pytest

from vmm_core.config.records import BackendPolicy
from vmm_core.supervisor.budget import FIRST_PAUSE, LONGEST_PAUSE, Budget

KILLED, FAILED, DONE, UNKNOWN = -9, 1, 0, None


def policy(**words: object) -> BackendPolicy:
    made: BackendPolicy = BackendPolicy(id="disk").replace(**words)
    return made


@pytest.mark.parametrize(
    ("restart", "statuses"),
    [("never", []), ("on-failure", [KILLED, FAILED, UNKNOWN]), ("always", [KILLED, FAILED, UNKNOWN, DONE])],
)
def test_the_policy_says_after_which_ends_there_is_a_restart(restart: str, statuses: list[int | None]) -> None:
    budget = Budget(policy(restart=restart))
    again = [status for status in (KILLED, FAILED, UNKNOWN, DONE) if not budget.refusal(status, 0.0)]
    assert again == statuses


def test_restarts_are_counted_within_a_window_that_moves() -> None:
    budget = Budget(policy(max_restarts=2, window=10))
    for now in (0.0, 6.0):
        assert not budget.refusal(KILLED, now)
        budget.spend(now)
    assert "more than 2 restarts within 10 s" in budget.refusal(KILLED, 9.9)
    assert not budget.refusal(KILLED, 10.1)
    budget.spend(10.1)
    assert budget.refusal(KILLED, 15.9)


def test_no_restart_at_all_may_be_allowed() -> None:
    assert Budget(policy(max_restarts=0)).refusal(KILLED, 0.0)


def test_somebody_who_asks_begins_a_new_count() -> None:
    budget = Budget(policy(max_restarts=1))
    budget.spend(0.0)
    assert budget.refusal(KILLED, 1.0)
    budget.renew()
    assert not budget.refusal(KILLED, 1.0)


def test_the_first_restart_is_at_once_and_the_pause_doubles_while_they_fail() -> None:
    budget = Budget(policy())
    assert [budget.spend(0.0) for _ in range(4)] == [0.0, FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    budget.succeeded()
    assert budget.spend(0.0) == 0.0


def test_a_backoff_that_was_asked_for_is_kept_and_doubles() -> None:
    budget = Budget(policy(backoff=500))
    assert [budget.spend(0.0) for _ in range(3)] == [0.5, 1.0, 2.0]


def test_no_pause_is_longer_than_the_longest_or_than_was_asked_for() -> None:
    budget, patient = Budget(policy()), Budget(policy(backoff=60_000))
    assert max(budget.spend(0.0) for _ in range(100)) == LONGEST_PAUSE
    assert {patient.spend(0.0) for _ in range(100)} == {60.0}
