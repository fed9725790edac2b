"""The checked facts as the numeric guard gets them."""

from __future__ import annotations

from edgemed.demo.supported import checked_facts, statements_on, supported_doses
from edgemed.demo.table import fact_table
from edgemed.medical.guard import check_numbers


def test_nearly_every_checked_statement_supports_its_own_numbers() -> None:
    unclean = [
        fact.id
        for fact in fact_table().statements()
        if fact.verified and not check_numbers(fact.sentence(), fact.subject, checked_facts(fact.subject)).clean
    ]
    assert len(unclean) <= 3, unclean  # numbers in names that the parser cannot read: "R21", "2p+1"


def test_statements_on_another_subject_are_left_out() -> None:
    assert statements_on("What is the schedule of the measles vaccine?")
    assert all("easles" in text.text for text in statements_on("measles vaccine"))
    assert statements_on("How do I mend a bicycle?") == ()


def test_a_statement_does_not_support_another_number() -> None:
    answer = "Measles vaccine: give the first dose at 3 months."
    numbers = check_numbers(answer, "When is the measles vaccine given?", checked_facts("measles vaccine")).numbers
    assert [number.verdict.value for number in numbers] != ["from_source"]


def test_facts_from_memory_are_left_out() -> None:
    assert len(supported_doses()) == sum(dose.verified for dose in fact_table().doses())
