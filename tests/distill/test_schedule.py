"""Learning rate and curriculum: equal to torch's, nested, and a function of the step alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemed.distill.schedule import competence, difficulty, drawn, eligible, learning_rate


def test_the_learning_rate_is_torchs_cosine_with_warm_restarts() -> None:
    torch = pytest.importorskip("torch", reason="distillation needs torch")
    low, high, n_steps, restarts = 1e-5, 1e-3, 100, 4
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=high)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, n_steps // restarts, eta_min=low)
    for step in range(n_steps):
        expected = optimizer.param_groups[0]["lr"]
        found = learning_rate(step, n_steps, restarts=restarts, highest=high, lowest=low)
        assert found == pytest.approx(expected, rel=1e-9)
        optimizer.step()
        scheduler.step()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0, 1), st.floats(0, 1))
def test_what_may_be_drawn_grows_and_is_everything_in_the_end(values: list[float], one: float, other: float) -> None:
    few, many = sorted((one, other))
    found = np.array(values)
    assert eligible(found, few).any()
    assert not (eligible(found, few) & ~eligible(found, many)).any()
    assert eligible(found, competence(10, 10)).all()


def test_competence_begins_at_its_start_and_ends_at_one() -> None:
    shares = [competence(step, 50, start=0.2) for step in range(51)]
    assert shares[0] == pytest.approx(0.2)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_difficulty_is_the_mean_rank_and_ties_share_theirs() -> None:
    found = difficulty({"length": [10, 30, 20], "numbers": [0, 0, 5]})
    assert found == pytest.approx([(0 + 0.25) / 2, (1 + 0.25) / 2, (0.5 + 1) / 2])
    with pytest.raises(ValueError, match="examples"):
        difficulty({"one": [1.0], "other": [1.0, 2.0]})


def test_a_step_draws_the_same_in_every_run_and_others_draw_otherwise() -> None:
    weights = np.ones(50)
    first = drawn(7, 10, weights, seed=1)
    assert (first == drawn(7, 10, weights, seed=1)).all()
    assert set(first) != set(drawn(8, 10, weights, seed=1))
    assert set(first) != set(drawn(7, 10, weights, seed=2))


def test_nothing_without_weight_is_drawn_and_nothing_twice_while_there_is_other() -> None:
    weights = np.array([0.0, 1.0, 1.0, 5.0])
    assert sorted(drawn(0, 3, weights, seed=0)) == [1, 2, 3]
    assert sorted(drawn(0, 6, weights, seed=0)) == [1, 1, 2, 2, 3, 3]
    with pytest.raises(ValueError, match="weight"):
        drawn(0, 1, np.zeros(3), seed=0)


def test_weight_decides_how_often() -> None:
    weights = np.array([1.0, 3.0])
    firsts = [int(drawn(step, 1, weights, seed=3)[0]) for step in range(2000)]
    assert np.mean(firsts) == pytest.approx(0.75, abs=0.04)
