"""The demonstration's corpus: fixed, without repetition, and without a word of its examination."""

from __future__ import annotations

from collections import Counter

import pytest

from edgemed.demo.questions import dose_examination
from edgemed.demo.table import fact_table
from edgemed.distill.demo_data import Taught, demo_data, other_table, taught_table
from edgemed.distill.examples import find_leaks, plain
from edgemed.evaluate.prompts import demo_prompts

EXAM = [prompt.question for prompt in (*demo_prompts("A"), *demo_prompts("B"))]


@pytest.fixture(scope="module")
def taught() -> Taught:
    return demo_data(EXAM, n_examples=600, n_facts=40)


def test_the_corpus_is_the_same_every_time_and_a_shorter_one_is_its_beginning(taught: Taught) -> None:
    assert demo_data(EXAM, n_examples=600, n_facts=40) == taught
    shorter = demo_data(EXAM, n_examples=100, n_facts=40).examples
    assert {one.question for one in shorter} < {one.question for one in taught.examples}


def test_nothing_is_taught_twice_or_leaks(taught: Taught) -> None:
    assert len(taught.examples) == 600
    assert len({(plain(one.question), plain(one.answer)) for one in taught.examples}) == 600
    assert not list(find_leaks(taught.examples, EXAM))
    leaky = [*EXAM, taught.examples[5].question]
    assert taught.examples[5].question not in {one.question for one in demo_data(leaky, 600, 40).examples}


def test_no_question_that_is_asked_afterwards_is_taught_or_asked_twice(taught: Taught) -> None:
    sides = [{plain(one.question) for one in part} for part in (taught.examples, taught.validation, taught.examination)]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]


def test_validation_and_examination_ask_about_every_taught_dose(taught: Taught) -> None:
    doses = {dose.id for dose in taught_table(40).doses()}
    assert 40 <= len(doses) < 50
    for part in (taught.validation, taught.examination):
        assert Counter(one.id for one in part) == dict.fromkeys(doses, 4)


def test_kinds_and_specialties_are_those_of_the_facts(taught: Taught) -> None:
    kinds = Counter(one.kind for one in taught.examples)
    assert kinds[""] > kinds["basic"] > 30
    assert kinds["replay"] > 30
    assert [one.kind for one in taught.examples] == sorted(
        (one.kind for one in taught.examples), key=["", "basic", "replay"].index
    )
    assert {one.specialty for one in taught.examples if one.kind == "basic"} == {"emergency"}


def test_what_a_student_may_know_before_holds_no_taught_drug() -> None:
    taught, other = taught_table(40), other_table(40)
    assert not {dose.drug for dose in taught.doses()} & {dose.drug for dose in other.doses()}
    assert len(list(taught.doses())) + len(list(other.doses())) == len(list(fact_table().doses()))
    assert list(other.statements()) == list(fact_table().statements())


def test_without_a_number_of_facts_all_are_taught() -> None:
    assert len(demo_data([], n_examples=8).examination) == len(dose_examination(fact_table())) // 2
