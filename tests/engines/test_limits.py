"""Pauses double, and too many losses within the window are the end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgemed.engines.limits import Limits, RestartBudget


def test_the_pause_doubles_up_to_its_limit() -> None:
    budget = RestartBudget(Limits(first_pause_s=1, longest_pause_s=5, max_restarts=9))
    assert [budget.pause_after_loss(0.0) for _ in range(5)] == [1, 2, 4, 5, 5]


def test_losses_long_ago_are_forgotten() -> None:
    budget = RestartBudget(Limits(first_pause_s=1, max_restarts=2, window_s=100))
    assert [budget.pause_after_loss(now) for now in (0.0, 60.0, 120.0, 130.0)] == [1, 2, 2, None]


@given(st.lists(st.floats(0, 50), min_size=1), st.integers(0, 5))
def test_no_window_ever_holds_more_restarts_than_allowed(gaps: list[float], max_restarts: int) -> None:
    limits = Limits(max_restarts=max_restarts, window_s=100)
    budget = RestartBudget(limits)
    now, restarts = 0.0, []
    for gap in gaps:
        now += gap
        if budget.pause_after_loss(now) is not None:
            restarts.append(now)
        assert sum(now - then <= limits.window_s for then in restarts) <= max_restarts
