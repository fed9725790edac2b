"""Whether one of two is better, told by pairs: the same seeds, or the same questions, for both.

The p value is that of the sign-flip test (Fisher 1935): were the two alike, each difference could as well have had the
other sign. It is exact, over all 2^n choices of signs, wherever that can be counted; a drawn one says its own error.
Shares have Wilson's interval, two models' answers to the same questions McNemar's test. Nothing here decides what a
difference means; `verdict` says no more than p value and interval do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgemed.core.records import Record

CONFIDENCE = 0.95
_Floats = npt.NDArray[np.float64]
_MOST_COUNTED = 40
"""Pairs whose 2^n signs are counted in two halves of 2^20 sums: 0.3 s and 50 MB."""
_MOST_STEPS = 1_000_000
"""Of a common unit in the sum of all differences, for counting by a table of sums."""
_MOST_PARTS = 100_000
"""Largest denominator that a difference is taken to have: a share of so many questions."""
_DRAWS = 99_999
"""Of signs or of pairs, where they are drawn."""
_NEAR = 1e-9
"""Sums as near as this to the observed one, relative to the largest there can be, are as large: adding rounds."""


class Interval(Record):
    """Where a value lies with the given confidence, as far as `method` can tell."""

    low: float
    high: float
    confidence: float = CONFIDENCE
    method: str


class PValue(Record):
    """How often signs that say nothing give a mean as far from 0, two-sided."""

    value: float
    method: Literal["exact", "drawn"]
    error: float = 0.0
    """Standard error of a drawn one."""


class Difference(Record):
    """The first minus the second, over pairs."""

    n: int
    mean: float
    p: PValue
    interval: Interval
    """Of the mean."""


def difference(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> Difference:
    """The paired difference of two lists of equal length, n at least 1. Raises ValueError for lists that do not pair.

    The interval holds the means that the sign-flip test does not refuse; beyond 40 pairs it is a bootstrap's.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"{len(first)} and {len(second)} values make no pairs")
    values = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    return Difference(
        n=len(values),
        mean=float(values.mean()),
        p=sign_flip(values, seed=seed),
        interval=mean_interval(values, seed=seed),
    )


def sign_flip(differences: npt.ArrayLike, *, seed: int = 0) -> PValue:
    """The two-sided p value of a mean of 0, for any number of finite differences.

    Exact up to 40 differences, and beyond that where all are whole multiples of one unit, as shares of equal numbers
    of questions are; else 99 999 choices of signs are drawn, the observed one beside them.
    """
    values = _finite(differences)
    if len(values) <= _MOST_COUNTED:
        return PValue(value=min(1.0, 2 * _upper_share(values)) if values.any() else 1.0, method="exact")
    steps = _whole(values)
    if steps is not None:
        return PValue(value=_by_table(steps), method="exact")
    from scipy.stats import permutation_test

    found = permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=_DRAWS, rng=np.random.default_rng(seed)
    )
    p = float(found.pvalue)
    return PValue(value=p, method="drawn", error=math.sqrt(p * (2 - p) / _DRAWS))  # twice the rarer side


def mean_interval(differences: npt.ArrayLike, *, confidence: float = CONFIDENCE, seed: int = 0) -> Interval:
    """Of the mean of differences between shares (each from -1 to 1).

    Up to 40 pairs: all means that the exact sign-flip test does not refuse (Hartigan 1969); infinite for so few pairs
    that it cannot refuse any. Beyond: bootstrap over pairs (BCa), seeded. Pairs that never differ say only how often
    pairs may differ at all, and by 1 each: the exact bound for none of n.
    """
    values = _finite(differences)
    if not values.any():
        bound = 1 - (1 - confidence) ** (1 / len(values))
        return Interval(low=-bound, high=bound, confidence=confidence, method="no pair differs")
    if len(values) <= _MOST_COUNTED:
        alpha = (1 - confidence) / 2
        low, high = -_upper_limit(-values, alpha), _upper_limit(values, alpha)
        return Interval(low=low, high=high, confidence=confidence, method="sign-flip test inverted")
    low, high, method = _bootstrap(np.mean, (values,), confidence, seed)
    return Interval(low=low, high=high, confidence=confidence, method=method)


def ratio_interval(
    parts: npt.ArrayLike, wholes: npt.ArrayLike, *, confidence: float = CONFIDENCE, seed: int = 0
) -> Interval:
    """Of sum(parts) / sum(wholes), where a whole and its part belong to one fact: percentile bootstrap over facts.

    What several wordings of one fact have in common is then not taken for so many facts.
    """
    counts = (_finite(parts), _finite(wholes))
    low, high, method = _bootstrap(_ratio, counts, confidence, seed)
    return Interval(low=low, high=high, confidence=confidence, method=f"{method}, over facts")


def wilson(right: int, asked: int, confidence: float = CONFIDENCE) -> Interval:
    """Of the share right / asked (Wilson 1927); 0 to 1 when nothing was asked."""
    if not asked:
        return Interval(low=0.0, high=1.0, confidence=confidence, method="Wilson")
    from scipy.stats import binomtest

    found = binomtest(right, asked).proportion_ci(confidence, method="wilson")
    return Interval(low=float(found.low), high=float(found.high), confidence=confidence, method="Wilson")


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> PValue:
    """Of two models that answered the same independent questions: exact, two-sided, from those that only one knew."""
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} answers make no pairs")
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    if not only_first + only_second:
        return PValue(value=1.0, method="exact")
    from scipy.stats import binomtest

    return PValue(value=float(binomtest(only_first, only_first + only_second).pvalue), method="exact")


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """The p values by name, adjusted so that all of them together err as seldom as one (Holm 1979)."""
    adjusted: dict[str, float] = {}
    highest = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda pair: pair[1])):
        highest = max(highest, min(1.0, p * (len(p_values) - rank)))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p_values}


def verdict(found: Difference, p_adjusted: float | None = None) -> Literal["higher", "lower", "not shown"]:
    """What the pairs show of the first beside the second; both p value and interval must say so."""
    p = found.p.value if p_adjusted is None else p_adjusted
    alpha = 1 - found.interval.confidence
    if p + 2 * found.p.error >= alpha or found.interval.low <= 0 <= found.interval.high:
        return "not shown"
    return "higher" if found.mean > 0 else "lower"


def _finite(values: npt.ArrayLike) -> _Floats:
    found = np.asarray(values, np.float64)
    if found.ndim != 1 or not len(found) or not np.isfinite(found).all():
        raise ValueError("pairs need a list of finite numbers")
    return found


def _upper_share(values: _Floats) -> float:
    """Share of the 2^n choices of signs whose sum is at least the absolute value of the observed one, n up to 40.

    Sums of the first half against sorted sums of the second: 2^(n / 2) each instead of 2^n.
    """
    half = len(values) // 2
    first, second = _signed_sums(values[:half]), np.sort(_signed_sums(values[half:]))
    least = abs(float(values.sum())) - _NEAR * float(np.abs(values).sum())
    below = np.searchsorted(second, least - first, side="left")
    return float((len(second) - below).sum()) / 2.0 ** len(values)


def _signed_sums(values: _Floats) -> _Floats:
    """(2^n,) sums of the n values with every choice of signs."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums - value, sums + value])
    return sums


def _upper_limit(values: _Floats, alpha: float) -> float:
    """The largest mean that the test does not refuse as too large at `alpha`; infinite when it refuses none.

    At most the largest value: above it, all differences have one sign, and only that choice of signs is as extreme.
    """
    if 2.0 ** -len(values) > alpha:
        return math.inf
    low, high = float(values.mean()), float(values.max())
    for _ in range(40):  # to 1e-12 of the range
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if _upper_share(values - middle) > alpha:
            low = middle
        else:
            high = middle
    return high


def _whole(values: _Floats) -> npt.NDArray[np.int64] | None:
    """The values as multiples of their common unit, where there is one and the table of sums stays small."""
    parts = [Fraction(float(value)).limit_denominator(_MOST_PARTS) for value in values]
    if any(abs(float(part) - value) > 1e-12 for part, value in zip(parts, values, strict=True)):
        return None
    unit = math.lcm(*(part.denominator for part in parts))
    steps = [int(part * unit) for part in parts]
    shared = math.gcd(*steps) or 1
    if sum(map(abs, steps)) // shared > _MOST_STEPS:
        return None
    return np.array([step // shared for step in steps], np.int64)


def _by_table(steps: npt.NDArray[np.int64]) -> float:
    """Two-sided p value from the chance of every sum that signs can give: one pass over the table for each pair."""
    sizes = np.abs(steps[steps != 0])
    total = int(sizes.sum())
    chances = np.zeros(2 * total + 1)
    chances[total] = 1.0
    reach = 0
    for size in sizes:
        inner = chances[total - reach : total + reach + 1] / 2
        reach += int(size)
        chances[total - reach : total + reach + 1] = 0.0
        chances[total - reach : total + reach + 1 - 2 * size] += inner
        chances[total - reach + 2 * size : total + reach + 1] += inner
    observed = abs(int(steps.sum()))
    if not observed:
        return 1.0
    return min(1.0, 2 * float(chances[total + observed :].sum()))


def _ratio(parts: _Floats, wholes: _Floats, axis: int = -1) -> _Floats:
    return np.asarray(parts.sum(axis=axis) / np.maximum(wholes.sum(axis=axis), 1e-300))


def _bootstrap(
    statistic: Callable[..., Any], data: tuple[_Floats, ...], confidence: float, seed: int
) -> tuple[float, float, str]:
    """Low, high and the method: BCa for one list, percentiles for several and where BCa is not defined."""
    from scipy.stats import bootstrap

    method: Literal["BCa", "percentile"] = "BCa" if len(data) == 1 and np.ptp(data[0]) > 0 else "percentile"
    rows: Any = data  # its type knows lists of one kind only
    found = bootstrap(
        rows,
        statistic,
        paired=len(data) > 1,
        vectorized=True,
        n_resamples=9_999,
        batch=max(1, 2_000_000 // len(data[0])),
        confidence_level=confidence,
        method=method,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high), f"{method} bootstrap"
