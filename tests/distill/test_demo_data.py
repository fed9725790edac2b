"""The demonstration's corpus: fixed, without repetition, and without a word of its examination."""

from __future__ import annotations

from collections import Counter

import pytest

from edgemed.demo.questions import dose_examination
from edgemed.demo.table import fact_table
from edgemed.distill.demo_data import demo_data, other_table, taught_table
from edgemed.distill.examples import Example, find_leaks, plain
from edgemed.evaluate.prompts import demo_prompts

EXAM = [prompt.question for prompt in (*demo_prompts("A"), *demo_prompts("B"))]


@pytest.fixture(scope="module")
def taught() -> tuple[Example, ...]:
    return demo_data(EXAM, n_examples=600, n_facts=40)


def test_the_corpus_is_the_same_every_time_and_a_shorter_one_is_its_beginning(taught: tuple[Example, ...]) -> None:
    assert demo_data(EXAM, n_examples=600, n_facts=40) == taught
    shorter = demo_data(EXAM, n_examples=100, n_facts=40)
    assert {one.question for one in shorter} < {one.question for one in taught}


def test_nothing_is_taught_twice_or_leaks(taught: tuple[Example, ...]) -> None:
    assert len(taught) == 600
    assert len({(plain(one.question), plain(one.answer)) for one in taught}) == 600
    assert not list(find_leaks(taught, EXAM))
    leaky = [*EXAM, taught[5].question]
    assert taught[5].question not in {one.question for one in demo_data(leaky, 600, 40)}


def test_no_held_out_question_is_taught(taught: tuple[Example, ...]) -> None:
    held_out = {plain(one.question) for one in dose_examination(fact_table(), seed=61)}
    assert not held_out & {plain(one.question) for one in taught}


def test_the_taught_doses_are_those_of_whole_drugs(taught: tuple[Example, ...]) -> None:
    doses = list(taught_table(40).doses())
    assert 40 <= len(doses) < 50
    drugs = {dose.drug for dose in doses}
    assert len(doses) == sum(dose.drug in drugs for dose in fact_table().doses())


def test_kinds_and_specialties_are_those_of_the_facts(taught: tuple[Example, ...]) -> None:
    kinds = Counter(one.kind for one in taught)
    assert kinds[""] > kinds["basic"] > 30
    assert kinds["replay"] > 30
    assert [one.kind for one in taught] == sorted((one.kind for one in taught), key=["", "basic", "replay"].index)
    assert {one.specialty for one in taught if one.kind == "basic"} == {"emergency"}


def test_what_a_student_may_know_before_holds_no_taught_drug() -> None:
    taught, other = taught_table(40), other_table(40)
    assert not {dose.drug for dose in taught.doses()} & {dose.drug for dose in other.doses()}
    assert len(list(taught.doses())) + len(list(other.doses())) == len(list(fact_table().doses()))
    assert list(other.statements()) == list(fact_table().statements())


def test_without_a_number_of_facts_all_are_taught() -> None:
    assert taught_table() == fact_table()
