"""Knowledge retention and coverage, by hand-counted cases and by drawing."""

import numpy as np
import pytest

from edgemed.evaluate.paired import wilson
from edgemed.evaluate.retention import (
    Judged,
    NoRetention,
    Retention,
    coverage,
    retention,
    retention_difference,
    share_interval,
)


def answers(right: str, per_fact: int = 1) -> list[Judged]:
    """ "+" for a right answer, "-" for a wrong one."""
    return [Judged(item=str(n), concept=str(n // per_fact), right=mark == "+") for n, mark in enumerate(right)]


def test_the_rate_is_of_what_the_teacher_has_right() -> None:
    found = retention(answers("+++++++-"), answers("++++--++"))
    assert isinstance(found, Retention)
    assert (found.teacher_right, found.both_right, found.rate) == (7, 5, 5 / 7)
    assert found.interval == wilson(5, 7)
    assert found.beyond_chance == found.rate


def test_guessing_right_is_taken_off() -> None:
    teacher, student = answers("+" * 40), answers("+" * 10 + "-" * 30)
    found = retention(teacher, student, chance=0.25)
    assert isinstance(found, Retention)
    assert found.beyond_chance == 0.0
    assert found.beyond_chance_interval.low < 0 < found.beyond_chance_interval.high
    perfect = retention(teacher, teacher, chance=0.25)
    assert isinstance(perfect, Retention)
    assert perfect.beyond_chance == 1.0


def test_a_teacher_that_may_be_guessing_has_nothing_to_keep() -> None:
    found = retention(answers("+---+--+" * 4), answers("+" * 32), chance=0.25)
    assert isinstance(found, NoRetention)
    assert "12 of 32" in found.reason
    assert isinstance(retention(answers("----"), answers("++++")), NoRetention)


def test_the_difference_of_two_students_is_paired_by_fact() -> None:
    teacher = answers("++++" * 30 + "----", per_fact=4)
    first, second = answers("+++-" * 30 + "++++", per_fact=4), answers("++--" * 20 + "+++-" * 10 + "----", per_fact=4)
    found = retention_difference(teacher, first, second)
    assert (found.first_rate, found.second_rate) == (90 / 120, 70 / 120)
    assert found.difference.n == 30
    assert found.difference.mean == pytest.approx(20 / 120)
    assert found.difference.p.value == pytest.approx(2 / 2**20)  # twenty facts differ, all of them one way
    assert 0 < found.difference.interval.low < 20 / 120 < found.difference.interval.high
    same = retention_difference(teacher, first, first)
    assert same.difference.p.value == 1.0
    assert same.difference.interval.low < 0 < same.difference.interval.high


def test_facts_of_several_wordings_have_wider_intervals_than_as_many_facts() -> None:
    random = np.random.default_rng(0)
    marks = "".join("++++" if known else "----" for known in random.random(60) < 0.7)
    clustered, independent = share_interval(answers(marks, per_fact=4)), share_interval(answers(marks))
    assert clustered.high - clustered.low > 1.6 * (independent.high - independent.low)
    certain = share_interval(answers("+" * 80, per_fact=4))
    assert certain == wilson(20, 20)


def test_a_concept_is_covered_by_enough_of_its_wordings() -> None:
    found = coverage(answers("+++-" + "++--" + "----" + "++++", per_fact=4), least_right=3)
    assert (found.n_covered, found.n_concepts, found.probes, found.share) == (2, 4, 4, 0.5)
    assert found.interval == wilson(2, 4)
    assert coverage(answers("+-" * 5, per_fact=2), 1).share == 1.0


def test_unequal_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="equally many"):
        coverage(answers("+++-+", per_fact=4), least_right=1)
    with pytest.raises(ValueError, match="equally many"):
        coverage(answers("++", per_fact=2), least_right=3)
    with pytest.raises(ValueError, match="not asked of both"):
        retention(answers("++"), answers("+++"))
    with pytest.raises(ValueError, match="nothing right"):
        retention_difference(answers("--"), answers("++"), answers("++"))


@pytest.mark.slow
def test_the_interval_over_facts_holds_the_true_rate_as_often_as_it_says() -> None:
    random, held, rounds = np.random.default_rng(8), 0, 300
    for n in range(rounds):
        known = random.beta(2, 2, 80)
        marks = "".join("+" if draw < share else "-" for share in known for draw in random.random(4))
        found = share_interval(answers(marks, per_fact=4), seed=n)
        held += found.low <= 0.5 <= found.high
    assert held / rounds == pytest.approx(0.95, abs=0.04)
