import datetime

import pytest
from pydantic import ValidationError

from edgemed.core.errors import UsageError
from edgemed.demo.table import Dose, Statement, _refuse_collisions, fact_table

DOSE = {
    "kind": "dose", "id": "a", "drug": "paracetamol", "condition": "fever", "group": "child", "detail": "under 5 years",
    "route": "oral", "amount": "10-15", "unit": "mg/kg", "interval": "every 6 hours", "maximum": "60 mg/kg per day",
    "source": "s", "locator": "page 3", "checked": datetime.date(2026, 11, 21),
}  # fmt: skip


def test_the_table_holds_what_it_promises() -> None:
    table = fact_table()
    checked = [fact for fact in table.facts if fact.verified]
    assert len(checked) >= 200
    assert len(table.facts) >= 350
    assert {fact.kind for fact in table.facts} == {
        "dose", "contraindication", "pregnancy", "danger_sign", "first_aid", "vaccination",
    }  # fmt: skip


def test_every_checked_fact_names_a_known_source_and_a_place_in_it() -> None:
    table = fact_table()
    for fact in table.facts:
        assert not fact.verified or (fact.source in table.sources and fact.locator), fact.id


def test_sources_are_all_used() -> None:
    table = fact_table()
    assert set(table.sources) == {fact.source for fact in table.facts if fact.verified}


def test_a_dose_reads_as_one_plain_sentence() -> None:
    dose = Dose.model_validate(DOSE)
    assert dose.sentence() == (
        "Paracetamol for fever, child, under 5 years, oral: 10 to 15 mg/kg every 6 hours. Maximum 60 mg/kg per day."
    )


def test_one_tablet_is_singular() -> None:
    dose = Dose.model_validate({**DOSE, "amount": "1", "unit": "tablets", "interval": "single dose"})
    assert dose.quantity == "1 tablet as a single dose"


def test_a_fact_from_memory_is_shown_as_unverified() -> None:
    dose = Dose.model_validate({**DOSE, "source": "memory", "checked": "from memory"})
    assert not dose.verified
    assert dose.sentence().endswith("(From memory, unverified.)")


@pytest.mark.parametrize(
    "change",
    [
        {"source": "memory"}, {"checked": "from memory"}, {"locator": ""}, {"amount": "ten"}, {"amount": "1,000"},
        {"group": "person"}, {"id": "A b"}, {"colour": "red"},
    ],
)  # fmt: skip
def test_a_careless_fact_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Dose.model_validate({**DOSE, **change})


def test_two_answers_to_one_question_are_refused() -> None:
    one = Dose.model_validate({**DOSE, "source": "memory", "checked": "from memory"})
    other = one.model_copy(update={"id": "b", "amount": "20"})
    with pytest.raises(UsageError, match="same question"):
        _refuse_collisions([one, other], {})


def test_statements_are_short_plain_sentences() -> None:
    for fact in fact_table().facts:
        if isinstance(fact, Statement):
            assert 5 <= len(fact.statement.split()) <= 45, fact.id
            assert fact.statement.endswith((".", ")", ":")), fact.id
            assert "\n" not in fact.statement, fact.id
