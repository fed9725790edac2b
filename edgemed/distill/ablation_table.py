"""What an ablation shows: means, paired differences over seeds, exact p values, and no word more than they say.

Pairs are seeds: what holds then holds for other seeds of this data and this student, not for other data. All arms of
the table are adjusted for together (Holm), for each measure by itself.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from edgemed.core.files import whole_file
from edgemed.core.records import Record
from edgemed.distill.arms import BASELINES
from edgemed.distill.examination import Scores
from edgemed.evaluate.paired import CONFIDENCE, Difference, Interval, difference, holm, verdict
from edgemed.evaluate.retention import by_concept, coverage, retention

DOSES, CHOICES, COVERAGE, RETENTION = "dose match", "choices right", "coverage", "retention (KRR)"
ArmScores = Mapping[int, Scores]
"""One arm's scores by seed."""


class ArmMean(Record):
    """One arm by itself, over its seeds."""

    arm: str
    n: int
    mean: float
    interval: Interval
    """Of the mean over seeds, by Student's t."""


class ArmDifference(Record):
    """One arm beside what it is compared with, on the same seeds."""

    arm: str
    against: str
    difference: Difference
    p_adjusted: float
    """For all arms of the table (Holm)."""
    words: str


class Measure(Record):
    """One thing that was measured of every arm."""

    name: str
    means: tuple[ArmMean, ...]
    differences: tuple[ArmDifference, ...]


class AblationReport(Record):
    """The whole table."""

    examination: str
    """Digest of what was asked."""
    seeds: tuple[int, ...]
    measures: tuple[Measure, ...]
    not_measured: tuple[str, ...]
    """What could not be had, and why."""
    errors: dict[str, dict[str, float]]
    """Wrong dose answers of each arm by kind, mean over seeds."""

    def lines(self) -> list[str]:
        """The table in plain text."""
        found = []
        for measure in self.measures:
            found += ["", f"{measure.name}, mean over {len(self.seeds)} seeds (95 % of the mean)"]
            found += [
                f"  {one.arm:<24} {one.mean:.3f}  ({one.interval.low:.3f} to {one.interval.high:.3f})"
                for one in measure.means
            ]
            found += [f"  {one.words}" for one in measure.differences]
        if any(self.errors.values()):
            found += ["", "wrong dose answers by kind, mean over seeds"]
            found += [
                f"  {arm:<24} {', '.join(f'{kind} {count:.1f}' for kind, count in kinds.items())}"
                for arm, kinds in self.errors.items()
                if kinds
            ]
        return [*found[1:], *self.not_measured]


def report_of(scores: Mapping[str, ArmScores], teacher: Scores | None = None) -> AblationReport:
    """The table of all arms, each with what it is compared with where that was run; pairs are seeds that both have."""
    some = next(iter(next(iter(scores.values())).values()))
    measures, missing = _measures(some, teacher)
    return AblationReport(
        examination=some.examination,
        seeds=tuple(sorted({seed for arm_scores in scores.values() for seed in arm_scores})),
        measures=tuple(
            _measure(name, {arm: {seed: value(one) for seed, one in of.items()} for arm, of in scores.items()})
            for name, value in measures.items()
        ),
        not_measured=missing,
        errors={arm: _errors(of) for arm, of in scores.items()},
    )


def _measures(some: Scores, teacher: Scores | None) -> tuple[dict[str, Callable[[Scores], float]], tuple[str, ...]]:
    """What can be measured of scores like these, as a number each; and what cannot."""
    found: dict[str, Callable[[Scores], float]] = {}
    missing: list[str] = []
    if some.doses:
        found[DOSES] = lambda scores: scores.dose_match
    if some.choices:
        found[CHOICES] = lambda scores: scores.choice_accuracy
    probes = {len(ones) for ones in by_concept(some.doses).values()}
    if len(probes) == 1 and (n := probes.pop()) > 1:
        least = -(-3 * n // 4)  # three quarters, as in the report of a run
        found[f"{COVERAGE}, {least} of {n}"] = lambda scores: coverage(scores.doses, least).share
    else:
        missing.append(
            f"{COVERAGE}: not measured, the examination does not ask each fact equally often, and repeatedly"
        )
    if teacher is None:
        missing.append(f"{RETENTION}: not measured, without the teacher's own answers")
    else:
        _add_retention(found, missing, teacher)
    return found, tuple(missing)


def _add_retention(found: dict[str, Callable[[Scores], float]], missing: list[str], teacher: Scores) -> None:
    for part, chance in (("doses", 0.0), ("choices", teacher.chance)):
        theirs = teacher.doses if part == "doses" else teacher.choices
        if not theirs:
            continue
        judged = retention(theirs, theirs, chance=chance)
        if hasattr(judged, "reason"):
            missing.append(f"{RETENTION} of {part}: not measured, {judged.reason}")
        else:
            known = frozenset(one.item for one in theirs if one.right)
            found[f"{RETENTION} of {part}"] = _Retained(part, known, chance)


class _Retained:
    """The share of `known` that a student has right, beyond chance."""

    def __init__(self, part: str, known: frozenset[str], chance: float) -> None:
        self._part, self._known, self._chance = part, known, chance

    def __call__(self, scores: Scores) -> float:
        theirs = scores.doses if self._part == "doses" else scores.choices
        right = sum(one.right for one in theirs if one.item in self._known)
        return (right / len(self._known) - self._chance) / (1 - self._chance)


def _measure(name: str, values: Mapping[str, Mapping[int, float]]) -> Measure:
    pairs: dict[str, tuple[str, Difference]] = {}
    for arm, mine in values.items():
        base = BASELINES.get(arm, "")
        shared = sorted(mine.keys() & values.get(base, {}).keys())
        if shared:
            pairs[arm] = (base, difference([mine[s] for s in shared], [values[base][s] for s in shared]))
    adjusted = holm({arm: found.p.value for arm, (_, found) in pairs.items()})
    return Measure(
        name=name,
        means=tuple(_mean(arm, list(mine.values())) for arm, mine in values.items()),
        differences=tuple(
            ArmDifference(
                arm=arm,
                against=base,
                difference=found,
                p_adjusted=adjusted[arm],
                words=words(arm, base, name, found, adjusted[arm]),
            )
            for arm, (base, found) in pairs.items()
        ),
    )


def words(arm: str, against: str, measure: str, found: Difference, p_adjusted: float) -> str:
    """One sentence that claims nothing unless the adjusted p value and the interval both do."""
    interval = found.interval
    bounds = f"{interval.low:+.3f} to {interval.high:+.3f}" if math.isfinite(interval.high) else "no bounds"
    drawn = f" +- {found.p.error:.1g}" if found.p.method == "drawn" else ""
    figures = (
        f"difference {found.mean:+.3f}, 95 % {bounds}, p = {found.p.value:.2g}{drawn}, "
        f"adjusted {p_adjusted:.2g}, n = {found.n}"
    )
    shown = verdict(found, p_adjusted)
    if shown == "not shown":
        return f"{arm}: no difference from {against} in {measure} could be shown ({figures})."
    return f"{arm}: {shown} {measure} than {against} ({figures})."


def _mean(arm: str, values: list[float]) -> ArmMean:
    from scipy.stats import t

    mean, n = float(np.mean(values)), len(values)
    half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n)) if n > 1 else math.inf
    method = "Student's t" if half else "all seeds equal"
    return ArmMean(arm=arm, n=n, mean=mean, interval=Interval(low=mean - half, high=mean + half, method=method))


def _errors(of: ArmScores) -> dict[str, float]:
    total: Counter[str] = Counter()
    for scores in of.values():
        total.update(scores.errors)
    return {kind: count / len(of) for kind, count in total.most_common()}


def draw(report: AblationReport, path: Path) -> bool:
    """Dots with intervals, the arms' means and their differences, as SVG; False without matplotlib."""
    if find_spec("matplotlib") is None or not report.measures:
        return False
    from matplotlib.figure import Figure

    rows = len(report.measures)
    height = sum(0.9 + 0.24 * len(measure.means) for measure in report.measures)
    figure = Figure(figsize=(9.6, height), layout="constrained")
    for (left, right), measure in zip(figure.subplots(rows, 2, squeeze=False), report.measures, strict=True):
        _dots(left, [(one.arm, one.mean, one.interval) for one in measure.means])
        left.set_xlabel(f"{measure.name}, mean of {len(report.seeds)} seeds")
        _dots(
            right,
            [
                (f"{one.arm} - {one.against}", one.difference.mean, one.difference.interval)
                for one in measure.differences
            ],
        )
        right.axvline(0.0, color="#7d8b97", linewidth=1)
        right.set_xlabel("paired difference, 95 %")
    with whole_file(path) as part:
        figure.savefig(part, format="svg", metadata={"Date": None})
    return True


def _dots(axes: Any, rows: list[tuple[str, float, Interval]]) -> None:
    for place, (_, mean, interval) in enumerate(rows[::-1]):
        if math.isfinite(interval.high):
            axes.plot([interval.low, interval.high], [place, place], color="#0f8296", linewidth=1.5)
        axes.plot([mean], [place], "o", color="#0f8296", markersize=4)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows[::-1]], fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.15)
