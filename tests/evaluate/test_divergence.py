"""Divergence of predictions against a plain oracle, and its limits."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemed.core.errors import ModelRefused, UsageError
from edgemed.evaluate.divergence import divergence, joined, summary


def some_logits(seed: int, rows: int = 40, vocab: int = 17, spread: float = 4.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((rows, vocab)) * spread).astype(np.float32)


@given(st.integers(0, 10_000), st.floats(0.01, 60))
def test_the_divergence_from_itself_is_nothing(seed: int, spread: float) -> None:
    logits = some_logits(seed, spread=spread)
    found = summary(divergence(logits, logits.copy(), [3] * 40))
    assert (found.kl_mean, found.kl_max, found.top1_agreement, found.perplexity_ratio) == (0, 0, 1, 1)


@given(st.integers(0, 10_000))
def test_it_is_the_sum_of_the_definition(seed: int) -> None:
    parent, child = some_logits(seed, rows=3), some_logits(seed + 1, rows=3)
    found = divergence(parent, child, [0, 5, 16])
    for row in range(3):
        p = [math.exp(x) / sum(math.exp(y) for y in map(float, parent[row])) for x in map(float, parent[row])]
        q = [math.exp(x) / sum(math.exp(y) for y in map(float, child[row])) for x in map(float, child[row])]
        assert found.kl[row] == pytest.approx(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)), abs=1e-12)
        assert found.child_nll[row] == pytest.approx(-math.log(q[[0, 5, 16][row]]), abs=1e-12)


@given(st.integers(0, 10_000), st.floats(-1e4, 1e4))
def test_a_constant_added_to_all_logits_of_a_row_changes_nothing(seed: int, constant: float) -> None:
    parent, child = some_logits(seed), some_logits(seed + 1)
    shifted = (child.astype(np.float64) + round(constant)).astype(np.float32)
    assert divergence(parent, shifted, [1] * 40).kl == pytest.approx(divergence(parent, child, [1] * 40).kl, abs=1e-2)


def test_logits_far_apart_stay_finite() -> None:
    parent, child = np.zeros((1, 4), np.float32), np.zeros((1, 4), np.float32)
    parent[0, 0], child[0, 1] = 3e4, 3e4
    assert divergence(parent, child, [0]).kl[0] == pytest.approx(3e4)


def test_what_is_no_number_is_refused_with_the_model_that_said_it() -> None:
    broken = some_logits(1)
    broken[7, 3] = np.nan
    with pytest.raises(ModelRefused, match="child computes values that are no numbers"):
        divergence(some_logits(1), broken, [0] * 40)
    with pytest.raises(ModelRefused, match="parent"):
        divergence(broken, some_logits(1), [0] * 40)


def test_models_with_other_vocabularies_are_not_compared() -> None:
    with pytest.raises(UsageError, match="17 and 16 tokens"):
        divergence(some_logits(1), some_logits(1, vocab=16), [0] * 40)
    with pytest.raises(ValueError, match="39 tokens"):
        divergence(some_logits(1), some_logits(2), [0] * 39)


def test_parts_are_joined_and_cut_by_masks() -> None:
    one, two = (divergence(some_logits(n), some_logits(n + 9), [2] * 40) for n in (1, 2))
    both = joined([one, two])
    assert summary(both).n_positions == 80
    assert np.array_equal(both.only(np.arange(80) >= 40).kl, two.kl)
    assert summary(joined([])).perplexity_ratio == 1


def test_the_99th_percentile_is_a_value_that_was_seen() -> None:
    found = divergence(some_logits(5), some_logits(6), [2] * 40)
    assert summary(found).kl_p99 == found.kl.max()
