"""What teacher and student answered in one run, side by side: shares with intervals, and what was kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field

from edgemed.core.records import Record
from edgemed.distill.examination import Scores
from edgemed.evaluate.paired import Interval
from edgemed.evaluate.retention import (
    Coverage,
    Judged,
    NoRetention,
    Retention,
    RetentionDifference,
    by_concept,
    coverage,
    retention,
    retention_difference,
    share_interval,
)

TEACHER, SFT, STUDENT = "teacher", "sft", "student"


class Share(Record):
    """Right answers of one kind."""

    right: int
    asked: int
    share: float
    interval: Interval


class ModelScores(Record):
    """One model's answers."""

    doses: Share | None = None
    """Exactly the right doses; None where no dose was asked."""
    errors: dict[str, int] = Field(default_factory=dict)
    """Wrong dose answers by what is wrong."""
    choices: Share | None = None
    chance: float = 0.0
    """Of the choices."""
    coverage: Coverage | None = None
    """Facts with at least three quarters of their dose questions right."""


class RunScores(Record):
    """One examination of all models of a run. What was not asked is missing, never 0."""

    models: dict[str, ModelScores] = Field(default_factory=dict)
    """By "teacher", "sft" (the student behind fine-tuning), "student" (at the end)."""
    retention: dict[str, Retention | NoRetention] = Field(default_factory=dict)
    """Of what the teacher knows, what "sft" and "student" know: on doses, or on choices where no dose was asked."""
    retention_gain: RetentionDifference | None = None
    """The student's less that of "sft"."""
    not_measured: tuple[str, ...] = ()
    """And why."""


def scores_of(found: Mapping[str, Scores], not_measured: Sequence[str] = ()) -> RunScores:
    """All that can be said of these answers to one examination."""
    models = {name: _model(scores) for name, scores in found.items()}
    kept: dict[str, Retention | NoRetention] = {}
    gain = None
    teacher = found.get(TEACHER)
    if teacher is not None and (known := _asked(teacher)):
        students = {name: _asked(found[name]) for name in (SFT, STUDENT) if name in found}
        chance = 0.0 if teacher.doses else teacher.chance
        kept = {name: retention(known, answers, chance=chance) for name, answers in students.items()}
        if len(students) == 2 and all(isinstance(one, Retention) for one in kept.values()):
            gain = retention_difference(known, students[STUDENT], students[SFT])
    return RunScores(models=models, retention=kept, retention_gain=gain, not_measured=tuple(not_measured))


def _asked(scores: Scores) -> Sequence[Judged]:
    return scores.doses or scores.choices


def _model(scores: Scores) -> ModelScores:
    return ModelScores(
        doses=_share(scores.doses),
        errors=dict(sorted(scores.errors.items())),
        choices=_share(scores.choices),
        chance=scores.chance,
        coverage=_coverage(scores.doses),
    )


def _share(answers: Sequence[Judged]) -> Share | None:
    if not answers:
        return None
    right = sum(one.right for one in answers)
    return Share(right=right, asked=len(answers), share=right / len(answers), interval=share_interval(answers))


def _coverage(answers: Sequence[Judged]) -> Coverage | None:
    """Only where facts are asked equally often, and more than once."""
    probes = {len(ones) for ones in by_concept(answers).values()}
    if len(probes) != 1 or (n := probes.pop()) < 2:
        return None
    return coverage(answers, -(-3 * n // 4))
