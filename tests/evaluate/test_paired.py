"""Paired tests and intervals against brute force, other libraries' formulas, and what they promise."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemed.evaluate.paired import (
    Difference,
    Interval,
    PValue,
    difference,
    holm,
    mcnemar,
    mean_interval,
    ratio_interval,
    sign_flip,
    verdict,
    wilson,
)

SHARES = st.integers(-40, 40).map(lambda n: n / 40)
ANY = st.floats(-1, 1).map(lambda x: round(x, 6))


def brute(values: list[float]) -> float:
    """Over all choices of signs, one after the other, on whole numbers."""
    whole = [round(value * 10**9) for value in values]
    choices = itertools.product((-1, 1), repeat=len(whole))
    sums = [abs(sum(s * v for s, v in zip(signs, whole, strict=True))) for signs in choices]
    return sum(found >= abs(sum(whole)) for found in sums) / len(sums)


@settings(max_examples=60)
@given(st.lists(st.one_of(SHARES, ANY), min_size=1, max_size=9))
def test_the_p_value_counts_all_choices_of_signs(values: list[float]) -> None:
    found = sign_flip(values)
    assert found.method == "exact"
    assert found.value == pytest.approx(brute(values), abs=1e-12)


@settings(max_examples=40)
@given(st.lists(SHARES, min_size=1, max_size=12), st.randoms())
def test_the_p_value_knows_neither_order_nor_direction(values: list[float], random: object) -> None:
    mixed = list(values)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert sign_flip([-value for value in mixed]).value == pytest.approx(sign_flip(values).value)


def test_beyond_forty_pairs_shares_are_still_counted_and_agree_with_the_binomial_test() -> None:
    from scipy.stats import binomtest

    values = [1.0] * 38 + [-1.0] * 21 + [0.0] * 200
    found = sign_flip(values)
    assert found.method == "exact"
    assert found.value == pytest.approx(binomtest(38, 59).pvalue, rel=1e-9)
    thirds = [n / 3 for n in (1, 2, 3, -1, 2)] * 8  # 40 pairs are counted in halves, with a 0 more by the table
    assert sign_flip([*thirds, 0.0]).value == pytest.approx(sign_flip(thirds).value, rel=1e-9)


def test_a_drawn_p_value_says_its_error_and_is_within_it() -> None:
    random = np.random.default_rng(3)
    values = random.normal(0.2, 1, 45)
    found = sign_flip(values)
    assert found.method == "drawn"
    assert 0 < found.error < 0.003
    t = values.mean() / (values.std(ddof=1) / math.sqrt(45))
    from scipy.stats import t as student

    assert found.value == pytest.approx(2 * student.sf(abs(t), 44), abs=0.01)
    assert sign_flip(values) == found
    assert sign_flip(values * 100 + 1000).value == pytest.approx(2 / 100_000)  # never 0: the observed signs count


@settings(max_examples=25, deadline=None)
@given(st.lists(st.one_of(SHARES, ANY), min_size=6, max_size=11))
def test_the_interval_holds_just_the_means_that_are_not_refused(values: list[float]) -> None:
    if not any(values):
        return
    found = mean_interval(values)
    assert found.low <= np.mean(values) + 1e-9 <= found.high + 2e-9
    spread = max(values) - min(values)
    if spread < 1e-3:
        return
    for limit, outward in ((found.low, -1), (found.high, 1)):
        outside, inside = limit + outward * 1e-5, limit - outward * 1e-5
        assert brute([value - outside for value in values]) <= 0.05 + 1e-12
        assert brute([value - inside for value in values]) > 0.05


def test_the_interval_is_made_of_means_of_subsets() -> None:
    """Hartigan's theorem, by another way: the k-th smallest mean of all 2^n - 1 subsets."""
    values = np.random.default_rng(5).normal(0.1, 0.3, 9)
    means = sorted(
        float(np.mean(subset)) for size in range(1, 10) for subset in itertools.combinations(values.tolist(), size)
    )
    k = math.floor(0.025 * 2**9)
    found = mean_interval(values)
    assert (found.low, found.high) == (pytest.approx(means[k - 1], abs=1e-9), pytest.approx(means[-k], abs=1e-9))


def test_few_pairs_refuse_nothing_and_equal_pairs_are_not_certain() -> None:
    few = mean_interval([0.5, 0.4, 0.6])
    assert (few.low, few.high) == (-math.inf, math.inf)
    equal = mean_interval([0.0] * 30)
    assert equal.method == "no pair differs"
    assert -equal.low == equal.high == pytest.approx(1 - 0.05 ** (1 / 30))
    assert sign_flip([0.0] * 30).value == 1.0


def test_many_pairs_have_a_seeded_bootstrap_near_the_normal_interval() -> None:
    values = np.random.default_rng(1).normal(0.1, 0.4, 400)
    found = mean_interval(values, seed=4)
    half = 1.96 * values.std() / 20
    assert found.method == "BCa bootstrap"
    assert (found.low, found.high) == (
        pytest.approx(values.mean() - half, abs=0.01),
        pytest.approx(values.mean() + half, abs=0.01),
    )
    assert mean_interval(values, seed=4) == found
    assert mean_interval([0.25] * 50).low == 0.25


def test_wordings_of_one_fact_do_not_count_as_facts() -> None:
    parts, wholes = [0, 1] * 20, [1] * 40
    once = ratio_interval(parts, wholes)
    eightfold = ratio_interval([8 * part for part in parts], [8 * whole for whole in wholes])
    assert (eightfold.low, eightfold.high) == (once.low, once.high)
    assert once.low == pytest.approx(0.35, abs=0.03)


def test_wilson_is_the_root_of_its_equation() -> None:
    for right, asked in ((0, 10), (3, 10), (10, 10), (57, 260)):
        found, z = wilson(right, asked), 1.959963984540054
        for limit in (found.low, found.high):
            if 0 < limit < 1:
                assert abs(right / asked - limit) == pytest.approx(z * math.sqrt(limit * (1 - limit) / asked))
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)


def test_mcnemar_counts_the_questions_that_only_one_knew() -> None:
    first = [True] * 8 + [False] * 1 + [True] * 50 + [False] * 20
    second = [False] * 8 + [True] * 1 + [True] * 50 + [False] * 20
    assert mcnemar(first, second).value == pytest.approx(2 * (1 + 9) / 2**9)
    assert mcnemar(second, first) == mcnemar(first, second)
    assert mcnemar([True], [True]).value == 1.0
    signs = [float(a) - float(b) for a, b in zip(first, second, strict=True)]
    assert mcnemar(first, second).value == pytest.approx(sign_flip(signs).value)


def test_holm_lets_all_together_err_as_seldom_as_one() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_a_verdict_needs_both_p_value_and_interval() -> None:
    def found(p: float, low: float, error: float = 0.0) -> Difference:
        interval = Interval(low=low, high=0.5, method="made up")
        return Difference(n=9, mean=0.2, p=PValue(value=p, method="drawn", error=error), interval=interval)

    assert verdict(found(0.01, 0.1)) == "higher"
    assert verdict(found(0.01, 0.1), p_adjusted=0.06) == "not shown"
    assert verdict(found(0.01, -0.1)) == "not shown"
    assert verdict(found(0.049, 0.1, error=0.001)) == "not shown"


def test_what_makes_no_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match="2 and 1"):
        difference([1, 2], [1])
    with pytest.raises(ValueError, match="finite"):
        sign_flip([math.nan])
    with pytest.raises(ValueError, match="2 and 1"):
        mcnemar([True, False], [True])


def test_thirty_seeds_are_counted_not_drawn() -> None:
    random = np.random.default_rng(2)
    first, second = random.normal(0.62, 0.03, 30), random.normal(0.60, 0.03, 30)
    found = difference(list(first), list(second))
    assert found.p.method == "exact"
    assert found.interval.method == "sign-flip test inverted"
    assert (found.p.value < 0.05) == (not found.interval.low <= 0 <= found.interval.high)
    assert difference(list(second), list(first)).mean == -found.mean


@pytest.mark.slow
@pytest.mark.parametrize("n", [8, 20])
def test_intervals_hold_the_true_mean_as_often_as_they_say(n: int) -> None:
    random = np.random.default_rng(n)
    rounds = 600
    covered = sum(
        found.low <= 0.3 <= found.high for found in (mean_interval(random.normal(0.3, 1, n)) for _ in range(rounds))
    )
    refused = sum(sign_flip(random.laplace(0, 1, n)).value <= 0.05 for _ in range(rounds))
    assert covered / rounds == pytest.approx(0.95, abs=0.03)
    assert refused / rounds <= 0.05 + 0.03
