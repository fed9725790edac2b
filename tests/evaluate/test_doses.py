"""Dose spans, what a child makes of them, and the gate."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemed.evaluate.doses import changed_words, differing_tokens, dose_spans, gate, upper_bound, words_of
from edgemed.evaluate.entity_tokens import token_groups
from edgemed.evaluate.token_text import TokenizedText


def words(text: str) -> TokenizedText:
    """A text cut as common tokenizers cut it: words with the blank before them, digits one by one."""
    pieces = [piece.encode() for piece in re.findall(r" ?[^\W\d]+|\d|\s|.", text, re.DOTALL)]
    return TokenizedText(tuple(range(len(pieces))), tuple(pieces))


PARENT = "Amoxicillin for pneumonia, child, oral: 40 mg/kg twice daily, 5 days. Maximum 3 g per day."


def change(child: str, parent: str = PARENT, place: int = 0) -> tuple[str, str]:
    answer, other = words(parent), words(child)
    first = next(n for n, piece in enumerate(answer.pieces) if other.pieces[n : n + 1] != (piece,))
    return changed_words(answer, dose_spans(answer)[place], first, other)


def test_amounts_and_intervals_are_spans_with_all_their_tokens() -> None:
    answer = words(PARENT)
    spans = dose_spans(answer)
    assert [(span.kind, words_of(answer, span)) for span in spans] == [
        ("amount", "40 mg/kg"),
        ("interval", "twice daily"),
        ("amount", "3 g per day"),
    ]
    assert b"".join(answer.pieces[n] for n in spans[0].tokens) == b"40 mg/kg"
    assert b"".join(answer.pieces[n] for n in spans[1].tokens) == b" twice daily"


@pytest.mark.parametrize(
    ("child", "kind", "said"),
    [
        ("Amoxicillin for pneumonia, child, oral: 400 mg/kg twice daily.", "10x", "400 mg/kg"),
        ("Amoxicillin for pneumonia, child, oral: 4 mg/kg twice daily.", "10x", "4 mg/kg"),
        ("Amoxicillin for pneumonia, child, oral: 4000 mg/kg twice daily.", "100x", "4000 mg/kg"),
        ("Amoxicillin for pneumonia, child, oral: 0.4 mg/kg twice daily.", "100x", "0.4 mg/kg"),
        ("Amoxicillin for pneumonia, child, oral: 40 mg twice daily.", "unit", "40 mg"),
        ("Amoxicillin for pneumonia, child, oral: 40 mcg/kg twice daily.", "unit", "40 mcg/kg"),
        ("Amoxicillin for pneumonia, child, oral: 40 g/kg twice daily.", "unit", "40 g/kg"),
        ("Amoxicillin for pneumonia, child, oral: 40.0 mg/kg twice daily.", "exact", "40.0 mg/kg"),
        ("Amoxicillin for pneumonia, child, oral: 45 mg/kg twice daily.", "other", "45 mg/kg"),
        ("Amoxicillin for pneumonia, child, oral: 40 to 400 mg/kg twice daily.", "other", "40 to 400 mg/kg"),
        ("Amoxicillin for pneumonia, child, oral: do not give it to any child at all. Maximum 3 g.", "other", None),
        ("Amoxicillin for pneumonia, child, oral: 4", "other", "4"),
        ("Amoxicillin for pneumonia, child, oral: 5 days of 40 mg/kg twice daily.", "other", None),
        ("Amoxicillin for pneumonia, child, oral: 40 to 10 mg/kg.", "other", "40 to 10 mg/kg"),
        ("Amoxicillin for pneumonia, child, oral: 40.0.4 mg/kg twice daily.", "other", None),
        ("Amoxicillin for pneumonia, child, oral: 400 mg/kg per dose.", "10x", "400 mg/kg per dose"),
    ],
)
def test_a_changed_amount_has_its_kind(child: str, kind: str, said: str | None) -> None:
    found, its_words = change(child)
    assert found == kind
    assert said is None or its_words == said


def test_a_changed_interval_has_its_kind() -> None:
    parent = "Paracetamol for fever, child, oral: 15 mg/kg every 6 hours."
    assert change("Paracetamol for fever, child, oral: 15 mg/kg every 8 hours.", parent, 1) == (
        "other",
        "every 8 hours",
    )
    assert change("Paracetamol for fever, child, oral: 15 mg/kg every 6 days.", parent, 1)[0] in ("unit", "other")


def test_the_same_amount_in_other_words_is_exact() -> None:
    assert change("Give 0.5 g daily.", "Give 500 mg daily.") == ("exact", "0.5 g")


def test_a_span_differs_where_the_first_choices_do_and_nowhere_else() -> None:
    answer = words(PARENT)
    span = dose_spans(answer)[0]
    parent = np.asarray(answer.ids)
    child = parent.copy()
    child[span.tokens.start - 1] = -1
    child[span.tokens.stop] = -1
    assert differing_tokens(span, parent, child) == ()
    child[span.tokens.stop - 1] = -1
    assert differing_tokens(span, parent, child) == (span.tokens.stop - 1,)


@given(st.lists(st.binary(max_size=6), max_size=30), st.lists(st.binary(max_size=6), max_size=30))
def test_any_bytes_can_be_compared(parent: list[bytes], child: list[bytes]) -> None:
    answer = TokenizedText(tuple(range(len(parent))), tuple(parent))
    other = TokenizedText(tuple(range(len(child))), tuple(child))
    token_groups(answer)
    for span in dose_spans(answer):
        changed_words(answer, span, span.tokens.start, other)


def test_tokens_belong_to_their_groups() -> None:
    answer = words("Do not give 40 mg/kg amoxicillin every 8 hours.")
    groups = token_groups(answer)
    found = {group: b"".join(answer.pieces[n] for n in np.flatnonzero(mask)) for group, mask in groups.items()}
    assert found == {
        "drug": b" amoxicillin",
        "number": b"408",
        "unit": b" mg/kg",
        "frequency": b" every 8 hours",
        "negation": b" not",
    }


def test_the_gate_passes_without_a_change_only_where_it_applies() -> None:
    assert gate(100, 0, 0).verdict == "passed"
    assert gate(99, 500, 0).verdict == "not applicable"
    assert gate(0, 0, 0).verdict == "not applicable"


def test_one_change_fails_the_gate_however_few_spans_there_are() -> None:
    assert gate(3, 0, 1).verdict == "failed"
    assert gate(900, 500, 1).verdict == "failed"


def test_the_bound_is_exact() -> None:
    assert upper_bound(0, 300) == pytest.approx(1 - 0.05 ** (1 / 300))  # the rule of three, exactly
    from scipy.stats import binom

    bound = upper_bound(4, 300)
    assert binom.cdf(4, 300, bound) == pytest.approx(0.05)
    assert upper_bound(3, 3) == upper_bound(0, 0) == 1
