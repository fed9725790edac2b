"""The two sets of questions share nothing, and are large enough."""

from collections.abc import Callable

import pytest

from edgemed.demo.table import fact_table
from edgemed.evaluate.choices import N_OPTIONS, demo_choices
from edgemed.evaluate.prompts import (
    EvaluationPrompt,
    _file,
    demo_facts,
    demo_prompts,
    general_text,
    generic_prompts,
    medical_text,
)


@pytest.mark.parametrize("prompts", [demo_prompts, generic_prompts])
def test_both_sets_are_large_and_disjoint(prompts: Callable[[str], tuple[EvaluationPrompt, ...]]) -> None:
    a, b = prompts("A"), prompts("B")
    for chosen in (a, b):
        assert len(chosen) >= 160
        assert {prompt.kind for prompt in chosen} == {"dosing", "contraindication", "danger_sign"}
        assert len({prompt.id for prompt in chosen}) == len({prompt.question for prompt in chosen}) == len(chosen)
    assert not {prompt.question for prompt in a} & {prompt.question for prompt in b}


def test_no_fact_is_in_both_sets_and_none_is_left_out() -> None:
    assert not demo_facts("A") & demo_facts("B")
    assert demo_facts("A") | demo_facts("B") == {fact.id for fact in fact_table().facts}
    for name in ("A", "B"):
        assert {prompt.id.rpartition("-")[0] for prompt in demo_prompts(name)} <= demo_facts(name)


def test_general_questions_of_the_two_sets_name_other_drugs_and_other_signs() -> None:
    content = _file()
    for kind, place in (("dosing", 0), ("contraindication", 0), ("danger_sign", 1)):
        a, b = ({row.split("|")[place].strip().lower() for row in content[name][kind]} for name in "AB")
        assert len(a) == len(content["A"][kind])
        assert not a & b


def test_every_wording_is_filled() -> None:
    assert not [prompt for name in ("A", "B") for prompt in generic_prompts(name) if set("{}|") & set(prompt.question)]


def test_the_texts_are_long_enough_for_a_perplexity() -> None:
    assert len(general_text().split()) > 500
    assert len(medical_text().split()) > 500


def test_a_choice_has_four_different_options_and_one_is_the_facts_own() -> None:
    doses = {dose.id: dose for dose in fact_table().doses()}
    for name in ("A", "B"):
        choices = demo_choices(name)
        assert len(choices) > 80
        for choice in choices:
            assert len(set(choice.options)) == N_OPTIONS
            assert choice.options[choice.right] == doses[choice.id].quantity
            assert doses[choice.id].sentence().startswith(choice.opening + doses[choice.id].quantity)
        assert {choice.right for choice in choices} == set(range(N_OPTIONS))
