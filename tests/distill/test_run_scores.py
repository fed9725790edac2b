"""Teacher and student side by side: what was not asked is missing, and luck is no knowledge."""

from __future__ import annotations

from edgemed.distill.examination import Scores
from edgemed.distill.run_scores import scores_of
from edgemed.evaluate.retention import Judged, NoRetention, Retention


def judged(pattern: str) -> tuple[Judged, ...]:
    return tuple(Judged(item=str(n), concept=str(n), right=one == "1") for n, one in enumerate(pattern))


def scores(doses: str = "", choices: str = "") -> Scores:
    return Scores(name="final", examination="x", doses=judged(doses), choices=judged(choices), chance=0.25)


def test_retention_is_on_doses_and_beside_the_fine_tuned_student() -> None:
    found = scores_of({"teacher": scores("1110"), "sft": scores("1000"), "student": scores("1101")})
    assert found.models["student"].doses is not None
    assert found.models["student"].doses.share == 0.75
    assert found.models["student"].choices is None
    kept = found.retention["student"]
    assert isinstance(kept, Retention)
    assert kept.rate == 2 / 3
    assert found.retention_gain is not None
    assert abs(found.retention_gain.difference.mean - 1 / 3) < 1e-12


def test_without_doses_choices_are_taken_and_a_teacher_that_guesses_keeps_nothing() -> None:
    known = scores_of({"teacher": scores(choices="1" * 20), "student": scores(choices="10" * 10)})
    assert isinstance(known.retention["student"], Retention)
    assert known.retention["student"].chance == 0.25
    guessed = {
        "teacher": scores(choices="1000" * 5),
        "sft": scores(choices="1" * 20),
        "student": scores(choices="1" * 20),
    }
    assert isinstance(scores_of(guessed).retention["student"], NoRetention)
    assert scores_of(guessed).retention_gain is None


def test_without_a_teacher_nothing_is_said_about_retention() -> None:
    found = scores_of({"student": scores("11")}, ["the teacher"])
    assert (found.retention, found.retention_gain, found.not_measured) == ({}, None, ("the teacher",))
