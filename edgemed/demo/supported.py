"""The demonstration's checked facts, as the numeric guard wants them."""

from __future__ import annotations

import re
from decimal import Decimal
from functools import cache

from edgemed.demo.table import Dose, FactTable, fact_table
from edgemed.medical.guard import CitedText, SupportedDose
from edgemed.medical.reading import read

_WORD = re.compile(r"\w+")


@cache
def supported_doses() -> tuple[SupportedDose, ...]:
    """Every dose of the table whose source was read; a fact from memory supports nothing and is left out."""
    table = fact_table()
    return tuple(_supported(dose, _title(table, dose.source)) for dose in table.doses() if dose.verified)


def checked_facts(question: str) -> tuple[SupportedDose | CitedText, ...]:
    """All that may support numbers in the answer to a question: every dose, and the statements on its subject."""
    return (*supported_doses(), *statements_on(question))


def statements_on(question: str) -> tuple[CitedText, ...]:
    """The other checked facts whose subject a question names, as texts that may support numbers."""
    plain = f" {' '.join(_WORD.findall(read(question).plain))} "
    return tuple(text for names, text in _statements() if any(name in plain for name in names))


@cache
def _statements() -> tuple[tuple[tuple[str, ...], CitedText], ...]:
    """Each checked statement with the names it is known by, between blanks."""
    table = fact_table()
    return tuple(
        (
            tuple(f" {' '.join(_WORD.findall(read(name).plain))} " for name in (fact.subject, *fact.also)),
            CitedText(title=_title(table, fact.source), text=fact.sentence()),
        )
        for fact in table.statements()
        if fact.verified
    )


def _title(table: FactTable, source: str) -> str:
    return f"{table.sources[source].title}, {table.sources[source].publisher}"


def _supported(dose: Dose, title: str) -> SupportedDose:
    low, _, high = dose.amount.partition("-")
    return SupportedDose(
        id=dose.id,
        title=title,
        drug=dose.drug,
        names=dose.also,
        condition=dose.condition,
        group=dose.group,
        detail=dose.detail,
        route=dose.route,
        low=Decimal(low),
        high=Decimal(high or low),
        unit=dose.unit,
        frequency=dose.interval,
        form=dose.form,
        duration=dose.duration,
        maximum=dose.maximum,
        verified=dose.verified,
    )
