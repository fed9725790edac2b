import pytest
from cache_stand_ins import ANSWER, QUESTION, SAME
from cpu_time import fastest
from hypothesis import given
from hypothesis import strategies as st

from edgemed.serve.cache_privacy import private_reason, words_of_language

ENGLISH = words_of_language("en")


@pytest.mark.parametrize(
    "text",
    [
        QUESTION,
        SAME,
        ANSWER,
        "WHAT IS THE DOSE OF PARACETAMOL?",
        "I have a child of 12 kg with HIV and TB. May I give paracetamol?",
        "Give benzylpenicillin 1,200,000 IU or 2 000 000 units once.",
        "Amoxicillin 500 mg q8h for 5 days\n- Give it with food.\n1. Do not stop early: repeat after 2 weeks.",
        "Dose: Give 10-15 mg/kg, at most 4000 mg in a day (adult, 2000 mg if over 65 years).",
        "Temperature 38.5 °C, BP 120/80, 1/2 tablet twice a day, CD4 count 200 cells",
        "the child's fever doesn't go down",
        "He may have fever: severe dehydration (treatment plan C), 35 degrees C, 5 mmol/L",
        "Give Td at 4 years; avoid NSAIDs and ARVs with it.",
        "Adrenaline 1:10000 for a pregnant woman from the 12th to the 36th week",
    ],
)
def test_texts_of_care_that_name_nobody_may_be_kept(text: str) -> None:
    assert private_reason(text, ENGLISH) is None


@pytest.mark.parametrize(
    "text",
    [
        "My patient Maria has fever",
        "Maria has fever",
        "maria has fever",
        "my patient maria, 3 years",
        "Mr Otieno has fever",
        "mr brown has fever",
        "Brown has fever",
        "my patient is Brown",
        "my patient. Brown has fever",
        "Name: Green, 3 years, fever",
        "Patient: Stone has fever",
        "grace has fever, how much paracetamol",
        "GRACE HAS FEVER",
        "Dr. Brown asks for the dose",
        "Nurse Young asks for the dose",
        "a child named fever",
        "a child from Kisumu with fever",
        "a child from kisumu with fever",
        "patient J K has fever",
        "patient Addison has fever",
        "Yasmin has fever",
        "Given has fever",
        "CAN HAS FEVER",
        "happy has fever",
        "a child called Given",
        "Ng: fever and cough",
        "What dose of zinc should Art get?",
        "Good morning. Song weighs 12 kg.",
        "Мария has fever",
        "مريم has fever",
        "she works at the Hilltop school",
    ],
)
def test_a_name_or_an_unknown_word_is_refused(text: str) -> None:
    assert private_reason(text, ENGLISH) in ("name", "unknown_word")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("MRN 12345, fever", "identifier"),
        ("file number 123, fever", "identifier"),
        ("fever in bed 12", "identifier"),
        ("AB12345 has fever", "identifier"),
        ("call 0712 345 678", "identifier"),
        ("call +254712345678 mg", "identifier"),
        ("call (020) 271-2345", "identifier"),
        ("fever since 12/05/2026", "date"),
        ("fever since 2026-05-12", "date"),
        ("fever since 12/5", "date"),
        ("fever since Monday", "date"),
        ("fever since the 12th of the month", "date"),
        ("fever since 3 May", "date"),
        ("fever since May 3", "date"),
        ("operated in 1998, now fever", "date"),
        ("ask nurse@clinic.org", "address"),
        ("see www.clinic.org", "address"),
        ("lives at 12 long street", "address"),
        ("P.O. Box 12", "address"),
    ],
)
def test_dates_numbers_of_people_and_addresses_are_refused(text: str, reason: str) -> None:
    assert private_reason(text, ENGLISH) == reason


def test_a_language_without_a_word_list_keeps_nothing() -> None:
    assert words_of_language("sw") is None
    assert words_of_language("../../x") is None
    assert private_reason(QUESTION, None) == "no_word_list"


@given(st.text() | st.text(alphabet=st.characters(categories=["Cs", "Cc", "Nd", "Mn", "Lo"])))
def test_no_text_makes_it_raise(text: str) -> None:
    private_reason(text, ENGLISH)


@given(st.sampled_from([QUESTION, SAME, ANSWER]), st.sampled_from(["Otieno", "wanjiku", "Mbeki"]), st.integers(0, 20))
def test_a_strange_word_anywhere_is_refused(text: str, name: str, place: int) -> None:
    words = text.split()
    words.insert(place, name)
    assert private_reason(" ".join(words), ENGLISH) is not None


@pytest.mark.parametrize("piece", ["1", "1 ", "- ", "a", "a ", "Dose: ", "(", "1.", "12/", "'", "0712 "])
def test_long_texts_are_read_in_linear_time(piece: str) -> None:
    text = (piece * 20_000)[:20_000]
    assert fastest(lambda: private_reason(text, ENGLISH), 0.5) < 0.5
    assert private_reason(text * 6, ENGLISH) == "too_long"
