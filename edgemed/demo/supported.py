"""The demonstration's checked doses, as the numeric guard wants them."""

from __future__ import annotations

from decimal import Decimal
from functools import cache

from edgemed.demo.table import Dose, fact_table
from edgemed.medical.guard_sources import SupportedDose


@cache
def supported_doses() -> tuple[SupportedDose, ...]:
    """Every dose of the table whose source was read; a fact from memory supports nothing and is left out."""
    table = fact_table()
    return tuple(
        _supported(dose, f"{table.sources[dose.source].title}, {table.sources[dose.source].publisher}")
        for dose in table.doses()
        if dose.verified
    )


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
