"""What is asked of a student, and how it is judged."""

import json
from pathlib import Path

import pytest

from edgemed.core.errors import UsageError
from edgemed.demo import demo_checkpoint_path
from edgemed.demo.questions import dose_examination
from edgemed.demo.table import fact_table
from edgemed.distill.examination import (
    ChoiceQuestion,
    DoseQuestion,
    Examination,
    Scores,
    demo_examination,
    examine,
    judged,
    read_examination,
)
from edgemed.distill.rendering import Side
from edgemed.evaluate.choices import Choice

PATTERNS = len(dose_examination(fact_table())) // len(list(fact_table().doses()))


def test_validation_and_final_examination_share_neither_question_nor_fact_of_a_choice() -> None:
    validation, final = demo_examination("validation"), demo_examination("final")
    asked = [{one.question for one in part.doses} | {one.choice.question for one in part.choices}
             for part in (validation, final)]  # fmt: skip
    assert not asked[0] & asked[1]
    assert not {one.concept for one in validation.choices} & {one.concept for one in final.choices}
    n_facts = len(list(fact_table().doses()))
    assert len(validation.doses) == len(final.doses) == PATTERNS // 2 * n_facts
    assert len(validation.choices) + len(final.choices) == n_facts
    wordings = [{one.id.rpartition("/")[2] for one in part.doses} for part in (validation, final)]
    assert not wordings[0] & wordings[1]


def test_facts_and_wordings_can_be_fewer() -> None:
    whole = demo_examination("final")
    facts = {one.concept for one in whole.doses[:40]}
    few = demo_examination("final", facts=facts, wordings=1)
    assert {one.concept for one in few.doses} == facts
    assert len(few.doses) == len(facts)
    assert {one.concept for one in few.choices} <= facts
    assert few.digest() != whole.digest()
    assert demo_examination("final") == whole


def test_a_fact_is_judged_by_the_table_and_its_error_named() -> None:
    one = next(q for q in demo_examination("final").doses if "every 6 hours" in q.answer)
    assert judged(one, one.answer).right
    wrong = judged(one, one.answer.replace("every 6 hours", "every 60 hours"))
    assert (wrong.right, wrong.error) == (False, "frequency")
    assert judged(one, "I do not know this.").error == "omission"
    single = next(q for q in demo_examination("final").doses if "as a single dose" in q.answer)
    assert judged(single, single.answer.replace(" as a single dose", "")).error == "other"


def test_an_answer_without_a_fact_is_judged_by_its_doses() -> None:
    asked = DoseQuestion(id="1", concept="1", question="?", answer="Paracetamol oral 15 mg/kg every 6 hours")
    assert judged(asked, "oral paracetamol, 15 mg/kg every 6 hours").right
    assert judged(asked, "oral paracetamol, 150 mg/kg every 6 hours").error == "10x"


def test_a_file_asks_doses_and_options(tmp_path: Path) -> None:
    lines = [
        {"question": "Paracetamol?", "answer": "15 mg/kg every 6 hours", "id": "a", "concept": "paracetamol"},
        {"question": "Which?", "answer": "rest", "options": ["rest", "run"], "specialty": "general"},
        {"question": "Who are you?", "answer": "A model."},
    ]
    path = tmp_path / "asked.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    found = read_examination(path)
    assert found.name == "file"
    assert [(one.id, one.concept) for one in found.doses] == [("a", "paracetamol")]
    assert [(one.choice.id, one.choice.right) for one in found.choices] == [("asked.jsonl line 2", 0)]
    assert found.chance == 0.5


def test_faulty_lines_are_named_together(tmp_path: Path) -> None:
    path = tmp_path / "asked.jsonl"
    path.write_bytes(
        b'{"question": "Q", "answer": "5 mg"}\n{"question": "Q"}\n\xff\n'
        b'{"question": "Q", "answer": "a", "options": ["b", "c"]}\nno\n'
        b'{"question": "Q", "answer": "5 mg", "id": "asked.jsonl line 1"}'
    )
    with pytest.raises(UsageError) as found:
        read_examination(path)
    for part in (
        "line 2: answer",
        "line 3: byte 0",
        "line 4: value error, the answer must be one of at least two",
        "line 5",
        "2 times",
    ):
        assert part in str(found.value)
    path.write_text('{"question": "Q", "answer": "Rest."}')
    with pytest.raises(UsageError, match="states a dose"):
        read_examination(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_examination(tmp_path / "none")


@pytest.mark.needs_torch
def test_the_demonstration_model_passes(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(demo_checkpoint_path(), dtype="float32")
    side = Side(demo_checkpoint_path())
    facts = {dose.id for dose in list(fact_table().doses())[:10]}
    which = demo_examination("final", facts=facts, wordings=1)
    found = examine(model, side, which)
    assert found.dose_match >= 0.8
    assert found.choice_accuracy >= 0.8
    assert (found.name, found.examination, found.chance) == ("final", which.digest(), 0.25)
    assert [one.item for one in found.doses] == [one.id for one in which.doses]
    assert sum(found.errors.values()) == sum(not one.right for one in found.doses)
    assert Scores.model_validate_json(found.model_dump_json()) == found
    whole = Choice(
        id="x", question=which.doses[0].question, opening="", options=("No.", which.doses[0].answer), right=1
    )
    choice = Examination(name="file", choices=(ChoiceQuestion(concept="x", choice=whole, whole=True),))
    assert examine(model, side, choice).choice_accuracy == 1.0
    assert examine(model, side, choice).dose_match == 0.0
