"""Doses of two texts compared, each kind of error made on purpose."""

import pytest

from edgemed.demo.table import fact_table
from edgemed.evaluate.dose_match import DoseError, dose_error, stated_doses

RIGHT = "Amoxicillin for pneumonia, child, oral: 40 mg/kg twice daily, 5 days. Maximum 3 g per day."


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (RIGHT, ""),
        ("Give oral amoxicillin 40 mg/kg two times a day; no more than 3000 mg per day", ""),
        (RIGHT.replace("40 mg/kg", "400 mg/kg"), "10x"),
        (RIGHT.replace("40 mg/kg", "4 mg/kg"), "10x"),
        (RIGHT.replace("40 mg/kg", "0.4 mg/kg"), "100x"),
        (RIGHT.replace("40 mg/kg", "40 mcg/kg"), "unit"),
        (RIGHT.replace("40 mg/kg", "40 mg"), "unit"),
        (RIGHT.replace("40 mg/kg", "45 mg/kg"), "value"),
        (RIGHT.replace("40 mg/kg", "40 to 50 mg/kg"), "value"),
        (RIGHT.replace("Amoxicillin", "Cefixime"), "drug"),
        (RIGHT.replace("twice", "three times"), "frequency"),
        (RIGHT.replace("oral", "intravenous"), "route"),
        (RIGHT.replace(" Maximum 3 g per day.", ""), "omission"),
        (RIGHT + " Paracetamol 15 mg/kg every 6 hours.", "addition"),
        (RIGHT.replace("40 mg/kg", "400 mg/kg").replace("twice", "three times"), "10x"),
        ("I do not know this.", "omission"),
        ("", "omission"),
    ],
)
def test_each_kind_of_error_is_told(said: str, error: DoseError) -> None:
    assert dose_error(RIGHT, said) == error


def test_doses_are_a_multiset() -> None:
    one, other = "Zinc, oral: 20 mg once daily.", "Paracetamol, oral: 15 mg/kg every 6 hours."
    assert dose_error(f"{one} {other}", f"{other} {one}") == ""
    assert dose_error(f"{one} {other}", one) == "omission"
    assert dose_error(one, f"{one} {one}") == "addition"
    assert dose_error("Drink enough.", "Rest in bed.") == ""


def test_every_fact_of_the_table_states_a_dose_and_equals_itself() -> None:
    sentences = [dose.sentence() for dose in fact_table().doses()][::9]
    for sentence in sentences:
        assert stated_doses(sentence), sentence
        assert dose_error(sentence, sentence) == ""
    errors = {dose_error(one, other) for one in sentences[:6] for other in sentences[:6] if one != other}
    assert "" not in errors
