"""Calibration texts: weights where a mistake would cost most, and files that cannot serve."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgemed.core.errors import UsageError
from edgemed.demo import demo_checkpoint_path
from edgemed.evaluate.prompts import demo_prompts
from edgemed.models.tokenizer import open_tokenizer
from edgemed.quantize.calibration_texts import PLAIN, CalibrationText, TokenWeights, calibration_set

DEMO = demo_checkpoint_path()


def written(path: Path, *records: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def words(text: CalibrationText) -> list[tuple[str, float]]:
    tokenizer = open_tokenizer(DEMO)
    return [
        (tokenizer.decode([token], skip_special_tokens=False), weight)
        for token, weight in zip(text.ids, text.weights.tolist(), strict=True)
    ]


def weight_of(text: CalibrationText, part: str) -> float:
    return max(weight for word, weight in words(text) if part in word)


def test_numbers_drugs_and_prohibitions_count_more_than_other_words(tmp_path: Path) -> None:
    file = written(
        tmp_path / "texts.jsonl",
        {
            "question": "Is ibuprofen safe?",
            "answer": "Do not give ibuprofen in dengue. Give paracetamol 15 mg/kg today.",
        },
    )
    (text,) = calibration_set(DEMO, file, tokens=10, least=1).texts
    weights = TokenWeights()
    assert weight_of(text, "5") == weights.dose
    assert weight_of(text, " not") == weights.contraindication
    assert weight_of(text, "<|im_start|>") == pytest.approx(weights.template)
    assert 1.0 in text.weights.tolist()


def test_plain_weights_are_all_one(tmp_path: Path) -> None:
    file = written(tmp_path / "texts.jsonl", {"question": "Dose of zinc?", "answer": "Zinc 20 mg once daily."})
    (text,) = calibration_set(DEMO, file, tokens=10, least=1, weights=PLAIN).texts
    assert set(text.weights.tolist()) == {1.0}


def test_the_table_of_facts_gives_no_question_of_the_report() -> None:
    calibration = calibration_set(DEMO, tokens=20_000, least=768)
    tokenizer = open_tokenizer(DEMO)
    seen = " ".join(tokenizer.decode(list(text.ids)) for text in calibration.texts)
    answers = {prompt.answer for prompt in demo_prompts("B")} - {prompt.answer for prompt in demo_prompts("A")}
    assert answers
    assert not [answer for answer in answers if answer and answer in seen]


def test_the_same_seed_gives_the_same_texts_and_another_seed_others() -> None:
    first, again, other = (calibration_set(DEMO, tokens=3000, least=768, seed=seed) for seed in (1, 1, 2))
    assert first.digest == again.digest != other.digest


def test_long_texts_are_cut_and_nothing_is_lost(tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    file.write_text("Give amoxicillin 40 mg/kg twice daily. " * 400, encoding="utf-8")
    calibration = calibration_set(DEMO, file, tokens=10**6, least=1)
    assert len(calibration.texts) > 1
    expected = open_tokenizer(DEMO).encode(file.read_text().strip(), add_special_tokens=False).ids
    assert [token for text in calibration.texts for token in text.ids] == expected


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("empty.txt", "  \n\n ", "no text"),
        ("short.txt", "Give zinc.", r"has \d+ tokens; this model needs at least 768"),
        ("foreign.txt", "<start_of_turn>user\nDose of zinc?<end_of_turn>", "another model's chat template"),
        ("letters.txt", "የኩላሊት ሕመም መድኃኒት መጠን ስንት ነው " * 200, "characters on average"),
        ("broken.jsonl", '{"question": "a"}\n{"question": ', "line 2"),
        ("fields.jsonl", '{"prompt": "a"}\n', 'neither "messages"'),
    ],
)
def test_a_file_that_cannot_serve_is_refused_with_the_number(
    tmp_path: Path, name: str, content: str, complaint: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=complaint):
        calibration_set(DEMO, tmp_path / name, tokens=10_000, least=768)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "image.txt").write_bytes(b"\xff\xd8\xff\xe0" * 50)
    with pytest.raises(UsageError, match="no UTF-8"):
        calibration_set(DEMO, tmp_path / "image.txt", tokens=10, least=1)
