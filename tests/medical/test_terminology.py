"""Notes say what abbreviations, brands and everyday words stand for, and replace nothing."""

import pytest
from cpu_time import fastest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemed.medical.terminology import MAX_NOTES, shipped_terminology, term_notes


def notes(text, **options):
    return {note.surface: note for note in term_notes(text, **options)}


@pytest.mark.parametrize(
    ("text", "surface", "meaning"),
    [
        ("Chest pain, is it MI?", "MI", "myocardial infarction"),
        ("SOB at night", "SOB", "shortness of breath"),
        ("amoxicillin 500 mg b.i.d.", "b.i.d.", "twice daily"),
        ("amoxicillin 500 mg BID", "BID", "twice daily"),
        ("RR 44/min in a child with cough", "RR", "respiratory rate"),
        ("RR 1.4 (95% CI 1.1-1.8) in the trial", "RR", "relative risk"),
        ("MS, relapsing, on interferon", "MS", "multiple sclerosis"),
        ("diastolic murmur, MS after rheumatic fever", "MS", "mitral stenosis"),
        ("PE with a swollen leg, start heparin", "PE", "pulmonary embolism"),
        ("PE at 34 weeks with proteinuria", "PE", "pre-eclampsia"),
        ("HTN/DM since 2010", "DM", "diabetes mellitus"),
        ("child with ALL on chemo", "ALL", "acute lymphoblastic leukaemia"),
        ("took Panadol", "Panadol", "paracetamol"),
        ("he had a heart attack", "heart attack", "myocardial infarction"),
        ("is a water pill safe", "water pill", "diuretic"),
        ("she takes water pills", "water pills", "diuretic"),
        ("afraid of lockjaw", "lockjaw", "tetanus"),
    ],
)
def test_the_words_around_decide_for_one_meaning(text, surface, meaning):
    note = notes(text)[surface]
    assert note.meanings == (meaning,)
    assert not note.ambiguous


@pytest.mark.parametrize("text", ["What is MS?", "RR?", "Tell me about PE", "he has RA", "what about GBS"])
def test_what_nothing_decides_is_told_with_all_its_meanings(text):
    (note,) = term_notes(text)
    assert note.ambiguous
    assert len(note.meanings) > 1


def test_words_in_a_shouted_text_are_words():
    assert not {"ALL", "AIDS", "IT", "IS", "TO", "CAN"} & set(
        notes("CAN I GIVE IT TO ALL CHILDREN, DOES THE DRUG HELP AIDS")
    )
    assert "AIDS" in notes("a man with AIDS and cough")
    assert not notes("all aids are here, it can help us to do so as well")


def test_an_abbreviation_that_is_no_word_is_read_in_a_shouted_text_too():
    assert "COPD" in notes("PATIENT WITH COPD AND FEVER")


@pytest.mark.parametrize(
    ("text", "surface"),
    [
        ("insulin 10U at night", "10U"), ("insulin 10 u", "10 u"), ("5000 IU heparin", "5000 IU"), ("digoxin QD", "QD"),
        ("digoxin q.o.d.", "q.o.d."), ("warfarin 1.0 mg", "1.0"), ("digoxin .5 mg", ".5"),
        ("500 \u00b5g", "500 \u00b5g"),
        ("give 5cc", "5cc"), ("MSO4 10 mg", "MSO4"), ("MgSO4 4 g", "MgSO4"), ("AZT 300 mg", "AZT"),
        ("give 1 tablet hs", "hs"), ("5 units sc", "sc"), ("MS 10 mg iv for pain", "MS"),
    ],
)  # fmt: skip
def test_dangerous_ways_of_writing_carry_a_warning(text, surface):
    assert notes(text)[surface].warning


@pytest.mark.parametrize(
    "text", ["warfarin 10 mg", "digoxin 0.5 mg", "10 units", "500 mcg", "5 mL", "pH 7.0", "1.05 mg"]
)
def test_safe_ways_of_writing_carry_none(text):
    assert not [note for note in term_notes(text) if note.warning]


def test_the_persons_own_words_are_named_as_written_with_their_bytes():
    text = "d\u00e9j\u00e0 vu e\u0301t MI with chest pain"
    note = notes(text)["MI"]
    assert text.encode()[note.start : note.end] == b"MI"


def test_each_word_is_noted_once_and_their_number_is_bounded():
    assert len(term_notes("BP low, BP high, BP normal")) == 1
    assert len(term_notes(" ".join(shipped_terminology().one))) <= MAX_NOTES


def test_in_another_language_only_brands_and_dangerous_writing_are_noted():
    found = notes("MI SOB Panadol .5 mg heart attack", language="fr")
    assert set(found) == {"Panadol", ".5"}


def test_the_lists_are_large_and_every_context_word_is_plain():
    data = shipped_terminology()
    assert len(data.one) + len(data.several) >= 350
    assert len(data.lay) >= 150
    for meanings in data.several.values():
        assert all(word == word.lower() for contexts in meanings.values() for word in contexts)
    assert not set(data.one) & set(data.several)
    assert set(data.danger) - {"U"} <= set(data.one) | set(data.several)


@pytest.mark.parametrize("text", ["MS MI ALL ", "a.", "1.0 mg ", "heart ", "A-", "1", "ALL ", ".5 ", "\u0301", "MS/"])
def test_a_hostile_text_of_100_kb_takes_bounded_time(text):
    term_notes("x")
    assert fastest(lambda: term_notes((text * 100_000)[:100_000]), 0.5) < 0.5


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=300))
def test_any_text_is_answered_and_spans_hold_the_surface(text):
    text += " MS \ud800 BP"
    for note in term_notes(text):
        assert 0 <= note.start < note.end <= len(text.encode("utf-8", "surrogatepass"))
