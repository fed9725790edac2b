"""How much of what a teacher knows its student knows too, and how surely it knows it.

Knowledge retention: of the questions that the teacher has right, the share that the student has right (the method
paper's KRR). Coverage: of the concepts, the share with at least m of n differently worded questions right. Questions
about one fact stand or fall together, so intervals draw facts, never wordings.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgemed.core.records import Record
from edgemed.evaluate.paired import Difference, Interval, mean_interval, ratio_interval, sign_flip, wilson


class Judged(Record):
    """One question of an examination, and whether the answer was right."""

    item: str
    concept: str
    """The fact that it asks for; several wordings may ask for one."""
    right: bool
    error: str = ""
    """What was wrong, where that is known."""


class Retention(Record):
    """What a student kept of what its teacher knows."""

    n_items: int
    teacher_right: int
    both_right: int
    rate: float
    """KRR = |teacher and student right| / |teacher right|."""
    interval: Interval
    chance: float
    """Share that guessing has right."""
    beyond_chance: float
    """(KRR - chance) / (1 - chance)."""
    beyond_chance_interval: Interval


class NoRetention(Record):
    """Why there is no such rate."""

    reason: str


class RetentionDifference(Record):
    """Two students of one teacher on the questions that the teacher has right."""

    first_rate: float
    second_rate: float
    difference: Difference
    """Over facts: n of them; each counts by how many of its questions the teacher has right."""


class Coverage(Record):
    """Concepts that a model knows in most of their wordings."""

    n_concepts: int
    n_covered: int
    probes: int
    """Questions to each concept."""
    least_right: int
    share: float
    interval: Interval


def retention(
    teacher: Sequence[Judged], student: Sequence[Judged], *, chance: float = 0.0, seed: int = 0
) -> Retention | NoRetention:
    """KRR with its interval; NoRetention unless the teacher's own interval excludes `chance`.

    `chance` is 0 for free answers, 1 / options for choices. Raises ValueError when the two were asked other questions.
    """
    pairs = _paired(teacher, student)
    known = [(t, s) for t, s in pairs if t.right]
    own = share_interval(teacher, seed=seed)
    if own.low <= chance:
        return NoRetention(
            reason=f"the teacher has {len(known)} of {len(pairs)} right ({own.low:.3f} to {own.high:.3f} of all), "
            f"which does not exclude guessing at {chance:.3f}: what it knows cannot be told from luck"
        )
    kept = [s for _, s in known]
    rate = sum(s.right for s in kept) / len(kept)
    interval = share_interval(kept, seed=seed)
    scaled = interval.model_copy(update={"low": _beyond(interval.low, chance), "high": _beyond(interval.high, chance)})
    return Retention(
        n_items=len(pairs),
        teacher_right=len(known),
        both_right=sum(s.right for s in kept),
        rate=rate,
        interval=interval,
        chance=chance,
        beyond_chance=_beyond(rate, chance),
        beyond_chance_interval=scaled,
    )


def retention_difference(
    teacher: Sequence[Judged], first: Sequence[Judged], second: Sequence[Judged], *, seed: int = 0
) -> RetentionDifference:
    """KRR of the first student less that of the second, on the same questions, paired by fact.

    The p value is the sign-flip test's over facts, whose wordings are taken together. Raises ValueError when the
    teacher has nothing right.
    """
    known = {t.item for t in teacher if t.right}
    if not known:
        raise ValueError("the teacher has nothing right")
    pairs = [(a, b) for (t, a), (_, b) in zip(_paired(teacher, first), _paired(teacher, second), strict=True)
             if t.item in known]  # fmt: skip
    gains: dict[str, int] = {}
    for a, b in pairs:
        gains[a.concept] = gains.get(a.concept, 0) + a.right - b.right
    # Each fact's gain in units of a mean fact's questions: their mean is the difference of the two rates.
    values = np.array(list(gains.values()), np.float64) * (len(gains) / len(pairs))
    rates = [sum(one.right for one in side) / len(pairs) for side in zip(*pairs, strict=True)]
    return RetentionDifference(
        first_rate=rates[0],
        second_rate=rates[1],
        difference=Difference(
            n=len(gains),
            mean=float(values.mean()),
            p=sign_flip(list(gains.values()), seed=seed),
            interval=mean_interval(values, seed=seed),
        ),
    )


def coverage(answers: Sequence[Judged], least_right: int) -> Coverage:
    """Concepts with at least `least_right` of their questions right; each concept is asked equally often.

    Raises ValueError when concepts are asked unequally often, less often than `least_right`, or not at all.
    """
    asked = by_concept(answers)
    probes = {len(ones) for ones in asked.values()}
    if len(probes) != 1 or least_right > max(probes):
        raise ValueError(f"coverage by {least_right} right needs equally many questions to each concept: {probes}")
    covered = sum(sum(one.right for one in ones) >= least_right for ones in asked.values())
    return Coverage(
        n_concepts=len(asked),
        n_covered=covered,
        probes=probes.pop(),
        least_right=least_right,
        share=covered / len(asked),
        interval=wilson(covered, len(asked)),
    )


def share_interval(answers: Sequence[Judged], *, seed: int = 0) -> Interval:
    """Of the share that is right: Wilson's with one question to a fact, else a bootstrap over facts.

    Where all or nothing is right a bootstrap would claim certainty: it is Wilson's then, with facts for questions.
    """
    asked = by_concept(answers)
    right = sum(one.right for one in answers)
    if len(asked) == len(answers):
        return wilson(right, len(answers))
    if right in (0, len(answers)):
        return wilson(len(asked) if right else 0, len(asked))
    parts = [sum(one.right for one in ones) for ones in asked.values()]
    return ratio_interval(parts, [len(ones) for ones in asked.values()], seed=seed)


def by_concept(answers: Sequence[Judged]) -> dict[str, list[Judged]]:
    """The answers, by what they are about."""
    found: dict[str, list[Judged]] = {}
    for one in answers:
        found.setdefault(one.concept, []).append(one)
    return found


def _paired(teacher: Sequence[Judged], student: Sequence[Judged]) -> list[tuple[Judged, Judged]]:
    theirs = {one.item: one for one in student}
    asked = {one.item for one in teacher}
    if asked != theirs.keys() or len(theirs) != len(student) or len(asked) != len(teacher):
        raise ValueError(f"{len(asked ^ theirs.keys())} questions were not asked of both, or some were asked twice")
    return [(one, theirs[one.item]) for one in teacher]


def _beyond(rate: float, chance: float) -> float:
    return (rate - chance) / (1 - chance)
