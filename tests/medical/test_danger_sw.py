from pathlib import Path

import pytest
from cpu_time import fastest

from edgemed.medical.category import classify
from edgemed.medical.danger import danger_signs
from edgemed.medical.language import Category, language_data

LINES = (Path(__file__).parent / "data/danger_sw.tsv").read_text(encoding="utf-8").splitlines()
SENTENCES = [line.split("\t") for line in LINES]


@pytest.mark.parametrize(("kind", "text"), SENTENCES)
def test_danger_is_told_from_none(kind: str, text: str) -> None:
    assert bool(danger_signs(text, "sw")) == (kind == "danger"), text


def test_a_denied_verb_is_no_sign_and_an_affirmed_one_is() -> None:
    assert danger_signs("mtoto anatapika kila kitu", "sw")
    assert danger_signs("mtoto hatapiki kila kitu", "sw") == ()
    assert danger_signs("mtoto hapumui", "sw")
    assert danger_signs("mtoto anapumua vizuri", "sw") == ()


def test_questions_find_their_category() -> None:
    assert language_data("sw").danger_checked
    assert classify("Dozi ya amoxicillin kwa mtoto wa kilo 10?", "sw").category is Category.MEDICATION
    assert classify("Chanjo ya surua inatolewa lini?", "sw").category is Category.PREVENTION
    assert classify("Dalili za malaria ni nini?", "sw").category is Category.DIAGNOSIS
    assert classify("Matibabu ya kidonda ni yapi?", "sw").category is Category.TREATMENT


def test_a_long_text_is_read_in_time() -> None:
    danger_signs("", "sw")
    text = "amekunywa anavimba hapumui wanatpika " * 2700
    assert fastest(lambda: danger_signs(text, "sw"), 0.5) < 0.5
