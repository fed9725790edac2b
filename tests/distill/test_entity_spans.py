"""What of an answer a mistake would hurt at, by kind and weight; no byte twice."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemed.distill.entity_spans import WEIGHTS, EntityKind, entity_spans, places_of, read_answer
from edgemed.distill.rendering import Side

SENTENCES = (
    "Give amoxicillin 250 mg three times a day for 5 days.",
    "Do not give ibuprofen in the third trimester of pregnancy.",
    "Methotrexate is contraindicated in pregnancy.",
    "Diabetes is diagnosed by a fasting plasma glucose of 7.0 mmol/L or an HbA1c of 6.5%.",
    "Convulsions are a danger sign: refer immediately.",
    "Fi\u00e8vre \U0001f48a 12 kg.",
)


def named(text: str) -> dict[str, EntityKind]:
    raw = text.encode()
    return {raw[span.start : span.end].decode(): span.kind for span in entity_spans(text)}


@pytest.mark.parametrize(
    ("text", "words", "kind", "weight"),
    [
        (SENTENCES[0], "250 mg", "dose", 5),
        (SENTENCES[0], "three times a day", "dose", 5),
        (SENTENCES[0], "5 days", "number", 5),
        (SENTENCES[0], "amoxicillin", "drug", 3),
        (SENTENCES[1], "Do not give", "contraindication", 4),
        (SENTENCES[1], "ibuprofen", "contraindication", 4),
        (SENTENCES[1], "third trimester", "contraindication", 4),
        ("Aspirin must never be given to a child.", "Aspirin", "contraindication", 4),
        (SENTENCES[2], "Methotrexate", "contraindication", 4),
        (SENTENCES[3], "7.0 mmol/L", "number", 5),
        (SENTENCES[3], "HbA1c", "criterion", 3),
        (SENTENCES[3], "Diabetes", "term", 1),
        (SENTENCES[4], "danger sign", "danger", 4),
        (SENTENCES[4], "Convulsions", "term", 1),
        ("Give 3 vaccines.", "3", "count", 1),
    ],
)
def test_an_entity_has_its_kind_and_weight(text: str, words: str, kind: EntityKind, weight: float) -> None:
    assert named(text)[words] == kind
    assert WEIGHTS[kind] == weight


def test_what_stands_before_a_prohibition_is_not_forbidden() -> None:
    found = named("Give paracetamol, and do not give ibuprofen.")
    assert (found["paracetamol"], found["ibuprofen"]) == ("drug", "contraindication")
    assert named("Avoid ibuprofen. Give paracetamol.")["paracetamol"] == "drug"


def test_the_number_of_a_list_is_no_entity() -> None:
    assert named("1. Give zinc.\n2. Give ORS.").keys() == {"zinc", "ORS"}


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(SENTENCES) | st.text(max_size=20), max_size=6), st.sampled_from([" ", "\r\n", "\n\n"]))
def test_spans_are_of_whole_characters_in_order_and_apart(parts: list[str], between: str) -> None:
    text = between.join(parts).encode("utf-8", "replace").decode()
    spans = entity_spans(text)
    raw = text.encode()
    for span in spans:
        assert raw[span.start : span.end].decode()
    assert all(one.end <= other.start for one, other in pairwise(spans))


def test_a_long_answer_is_read_to_its_end() -> None:
    filler = "The nurse waits \u00e9\U0001f48a. " * 1500
    text = f"{SENTENCES[0]} {filler}{SENTENCES[1]}"
    raw = text.encode()
    assert len(raw) > 32_000
    found = [(raw[span.start : span.end].decode(), span.weight) for span in entity_spans(text)]
    assert ("250 mg", 5) in found
    assert ("ibuprofen", 4) in found


def test_concepts_are_counted_once_and_numbers_each() -> None:
    found = read_answer("Give zinc 20 mg. Zinc is given for 10 days; give zinc to a child.")
    assert "zinc" in found.concepts
    assert found.n_numbers == 2


def test_places_are_the_tokens_of_heavy_entities_of_digits_and_behind_them(demo: Side) -> None:
    rendered = demo.answer("Vitamin B12 for asthma: give 250 mg of amoxicillin.")
    places = places_of(rendered)
    kept = [rendered.pieces[place].data for place in places]
    assert list(places) == sorted(set(places))
    assert b"".join(kept).replace(b" ", b"") == b"VitaminB12for250mgamoxicillin"
    assert len(rendered.ids) - 1 not in places
