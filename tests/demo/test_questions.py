import itertools
import random

from edgemed.demo.questions import (
    UNKNOWN_ANSWER,
    _phrasings,
    dose_examination,
    has_dose,
    statement_examination,
    training_examples,
    unknown_examination,
)
from edgemed.demo.table import fact_table


def training(n: int, seed: int = 0) -> list[tuple[str, str]]:
    examples = training_examples(fact_table(), random.Random(seed))
    return [(example.question, example.answer) for example in itertools.islice(examples, n)]


def test_a_seed_gives_the_same_text() -> None:
    assert training(200, 7) == training(200, 7) != training(200, 8)


def test_no_wording_is_both_trained_and_examined() -> None:
    for kind, patterns in _phrasings().items():
        if "held_out" in patterns:
            shapes = [
                {pattern.casefold().rstrip("?. ") for pattern in patterns[split]} for split in ("train", "held_out")
            ]
            assert not shapes[0] & shapes[1], kind


def test_no_examination_question_occurs_in_training() -> None:
    examined = {
        example.question.casefold().strip("?. ")
        for example in (*dose_examination(fact_table()), *statement_examination(fact_table()))
    }
    trained = {question.casefold().strip("?. ") for question, _ in training(20_000)}
    assert not examined & trained


def test_every_dose_and_statement_is_examined_in_every_held_out_wording() -> None:
    table = fact_table()
    doses = list(table.doses())
    assert len(dose_examination(table)) == len(doses) * len(_phrasings()["dose"]["held_out"])
    assert {example.fact_id for example in statement_examination(table)} == {fact.id for fact in table.statements()}


def test_every_tables_dose_sentence_counts_as_right() -> None:
    for dose in fact_table().doses():
        assert has_dose(dose.sentence(), dose), dose.id


def test_a_wrong_value_unit_interval_or_drug_does_not_count() -> None:
    dose = next(dose for dose in fact_table().doses() if dose.unit == "mg/kg" and "every" in dose.interval)
    right = dose.sentence()
    for wrong in (
        right.replace(f": {dose.amount.split('-')[0]}", f": {dose.amount.split('-')[0]}0"),
        right.replace(" mg/kg", " mg", 1) if ": " in right else right,
        right.replace(dose.interval, "once daily"),
        "X" + right,
        right.replace(": ", ": 1 g, or "),
        "",
    ):
        assert not has_dose(wrong, dose), wrong


def test_drugs_of_the_unknown_examination_are_in_no_fact() -> None:
    names = {name.casefold() for fact in fact_table().facts for name in (fact.name, *fact.also)}
    examples = unknown_examination(fact_table())
    assert examples
    for example in examples:
        assert example.answer == UNKNOWN_ANSWER
    for drug in _phrasings()["unknown"]["held_out_drugs"]:
        if drug in names:
            assert not any(drug in example.question.casefold() for example in examples)
