"""When what is learned, and how fast: equation (5)'s learning rate, and the progressive curriculum of equation (6).

Nothing here holds state: a step's rate and its examples follow from the step's number and the seed, so that a run that
was cut resumes exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

START_COMPETENCE = 0.1
"""Share of the examples, easiest first, that the first step may draw from."""


def learning_rate(step: int, n_steps: int, *, restarts: int, highest: float, lowest: float = 0.0) -> float:
    """Cosine with warm restarts, equation (5): `restarts` equal cycles over `n_steps`, each from highest to lowest.

    Equal to torch's CosineAnnealingWarmRestarts with T_0 = n_steps / restarts where that is whole.
    """
    part = math.fmod(step * restarts / n_steps, 1.0)
    return lowest + (highest - lowest) / 2 * (1 + math.cos(math.pi * part))


def difficulty(measures: Mapping[str, Sequence[float]]) -> npt.NDArray[np.float64]:
    """Mean rank of each example over all measures, from 0 to 1: concepts, their rarity, length, numbers, teacher's NLL.

    Equal values share the mean of their ranks. Raises ValueError when the measures differ in length.
    """
    from scipy.stats import rankdata

    lengths = {len(values) for values in measures.values()}
    if len(lengths) != 1:
        raise ValueError(f"measures of {sorted(lengths)} examples")
    (n,) = lengths
    ranks = [(rankdata(values) - 1) / max(1, n - 1) for values in measures.values()]
    return np.asarray(np.mean(ranks, axis=0), dtype=np.float64)


def competence(step: int, n_steps: int, start: float = START_COMPETENCE) -> float:
    """k(t) = min(1, sqrt(t (1 - k0^2) / T + k0^2)): share of the examples that may be drawn at a step."""
    return min(1.0, math.sqrt(step * (1 - start * start) / n_steps + start * start))


def eligible(difficulties: npt.NDArray[np.float64], share: float) -> npt.NDArray[np.bool_]:
    """The easiest `share` of the examples, at least one; ties are all in. A larger share holds every smaller."""
    n = min(len(difficulties), max(1, math.ceil(share * len(difficulties))))
    return np.asarray(difficulties <= np.partition(difficulties, n - 1)[n - 1])


def drawn(step: int, size: int, weights: npt.NDArray[np.float64], seed: int) -> npt.NDArray[np.int64]:
    """`size` examples of a step, without repetition as far as there are so many of positive weight, by weight.

    A function of its arguments alone (Philox counters): the same step draws the same examples in every run.
    """
    chosen: list[npt.NDArray[np.int64]] = []
    random = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, step]))
    available = np.flatnonzero(weights > 0)
    if not len(available):
        raise ValueError("no example has a positive weight")
    while size > 0:
        # Exponential clocks: the first to ring are a draw without repetition, by weight (Efraimidis, Spirakis).
        clocks = random.standard_exponential(len(available)) / weights[available]
        first = available[np.argsort(clocks, kind="stable")[:size]]
        chosen.append(first)
        size -= len(first)
    return np.concatenate(chosen)
