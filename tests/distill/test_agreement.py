"""Answers that say the same agree; a confusion that would hurt somebody never does."""

from __future__ import annotations

import pytest

from edgemed.distill.agreement import agrees, final_answer

REFERENCE = "Paracetamol 15 mg/kg by mouth every 6 hours."


@pytest.mark.parametrize(
    "answer",
    [
        REFERENCE,
        "Give paracetamol 15 mg/kg orally every 6 h.",
        "Acetaminophen: 15 mg/kg PO every 6 hours",
        "<think>Is it 10 mg/kg? No, 15.</think>\n\nParacetamol 15 mg/kg by mouth every 6 hours.",
    ],
)
def test_the_same_dose_in_other_words_agrees(answer: str) -> None:
    assert agrees(answer, REFERENCE)


@pytest.mark.parametrize(
    "answer",
    [
        "Paracetamol 15 mcg/kg by mouth every 6 hours.",
        "Paracetamol 15 g/kg by mouth every 6 hours.",
        "Paracetamol 150 mg/kg by mouth every 6 hours.",
        "Paracetamol 1.5 mg/kg by mouth every 6 hours.",
        "Paracetamol 15 mg by mouth every 6 hours.",
        "Paracetamol 10-15 mg/kg by mouth every 6 hours.",
        "Paracetamol 15 mg/kg by mouth every 4 hours.",
        "Paracetamol 15 mg/kg by mouth every 6 days.",
        "Paracetamol 15 mg/kg by mouth.",
        "Paracetamol 15 mg/kg every 6 hours IV.",
        "Paracetamol 15 mg/kg by mouth every 6 hours for 3 days.",
        "Ibuprofen 15 mg/kg by mouth every 6 hours.",
        "Paracetamol up to 15 mg/kg by mouth every 6 hours.",
        "Do not give paracetamol 15 mg/kg by mouth every 6 hours.",
        "Avoid paracetamol 15 mg/kg by mouth every 6 hours.",
        "Paracetamol 15 mg/kg by mouth every 6 hours. Then ibuprofen 10 mg/kg.",
        "Paracetamol by mouth every 6 hours.",
        "Ask a doctor.",
        "",
        "<think>Paracetamol 15 mg/kg by mouth every 6 hours.",
        "<think>Paracetamol 15 mg/kg by mouth every 6 hours.</think>",
    ],
)
def test_a_confusion_never_agrees(answer: str) -> None:
    assert not agrees(answer, REFERENCE)
    assert not agrees(REFERENCE, answer)


def test_a_number_that_was_not_read_or_half_a_character_is_refused() -> None:
    assert not agrees("Paracetamol 15 mg/kg by mouth every 6 hours, batch 12x7q.", REFERENCE)
    assert not agrees("Paracetamol 15 mg/kg by mouth every 6 hours \ufffd.", REFERENCE)


def test_intervals_belong_to_their_own_drug() -> None:
    known = "Amoxicillin 40 mg/kg twice daily and gentamicin 5 mg/kg once daily."
    swapped = "Amoxicillin 40 mg/kg once daily and gentamicin 5 mg/kg twice daily."
    assert agrees("Gentamicin 5 mg/kg once daily and amoxicillin 40 mg/kg twice daily.", known)
    assert not agrees(swapped, known)


def test_a_drug_that_only_the_question_names_is_its_own() -> None:
    question = "What is the dose of paracetamol in a child?"
    assert agrees("15 mg/kg by mouth every 6 hours.", REFERENCE, question)
    assert not agrees("15 mg/kg by mouth every 6 hours.", REFERENCE)
    assert not agrees("15 mg/kg by mouth every 6 hours.", REFERENCE, "Paracetamol or ibuprofen?")


@pytest.mark.parametrize("known", ["B", "(B)", "B.", "b) Malaria"])
def test_an_option_agrees_by_its_letter(known: str) -> None:
    assert agrees("<think>A or B? B.</think>The answer is (B).", known)
    assert agrees("B. Malaria", known)
    assert agrees(r"So: \boxed{B}", known)
    assert not agrees("The answer is (C).", known)
    assert not agrees("The answer is A. No, the answer is B.", known)
    assert not agrees("Malaria", known)


def test_other_answers_agree_word_for_word() -> None:
    assert agrees("It is  malaria", "It is malaria.")
    assert not agrees("It is not malaria.", "It is malaria.")


def test_the_final_answer_stands_behind_the_reasoning() -> None:
    assert final_answer("<think>a</think> b") == "b"
    assert final_answer("a</think>b") == "b"
    assert final_answer("<think>a") is None


def test_what_is_said_twice_counts_twice() -> None:
    assert not agrees(f"{REFERENCE} {REFERENCE}", REFERENCE)


def test_a_dose_to_avoid_is_not_one_to_give() -> None:
    known = "Give amoxicillin 500 mg, avoid aspirin 500 mg."
    assert agrees("Give amoxicillin 500 mg. Avoid aspirin 500 mg.", known)
    assert not agrees("Avoid amoxicillin 500 mg, give aspirin 500 mg.", known)
