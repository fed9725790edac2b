"""The weight of a child who cannot be weighed, by published formulas of age."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from edgemed.medical.calculators.given import Given, range_fault
from edgemed.medical.calculators.record import (
    READ,
    Calculator,
    CalculatorForm,
    CalculatorInput,
    InputFault,
    Outcome,
)
from edgemed.medical.calculators.rounding import HALF, calculated


@dataclass(frozen=True, slots=True)
class AgeFormula:
    """One published formula: the ages in months it was made for, and the weight in kg at such an age."""

    from_months: int
    to_months: int
    weight: Callable[[int], Fraction]


def _apls_2011(months: int) -> Fraction:
    years = months // 12
    if years < 1:
        return Fraction(months, 2) + 4
    return Fraction(2 * years + 8 if years < 6 else 3 * years + 7)


def _best_guess(months: int) -> Fraction:
    years = months // 12
    if years < 1:
        return Fraction(months + 9, 2)
    return Fraction(2 * (years + 5) if years < 5 else 4 * years)


FORMULAS = {
    "APLS 2011": AgeFormula(1, 155, _apls_2011),
    "APLS original": AgeFormula(12, 131, lambda months: Fraction(2 * (months // 12 + 4))),
    "Luscombe and Owens": AgeFormula(12, 167, lambda months: Fraction(3 * (months // 12) + 7)),
    "Best Guess": AgeFormula(1, 179, _best_guess),
}

FORM = CalculatorForm(
    name="paediatric_weight_estimate",
    title="Weight of a child by age (estimate)",
    purpose="A working weight for an emergency in which a child cannot be weighed.",
    inputs=(
        CalculatorInput(
            name="formula", label="Formula", kind="choice", choices=tuple(FORMULAS),
            note="APLS 2011: 1 month to 12 years; APLS original: 1 to 10 years; Luscombe and Owens: 1 to 13 years; "
            "Best Guess: 1 month to 14 years",
        ),
        CalculatorInput(
            name="age_months", label="Age", kind="number", unit="months", minimum=1, maximum=179, whole=True,
            note="completed months; from 1 year on completed years are counted",
        ),
    ),
    formula=(
        "APLS 2011: months ÷ 2 + 4 under 1 year, 2 × years + 8 from 1 to 5, 3 × years + 7 from 6 to 12 years. "
        "APLS original: 2 × (years + 4). Luscombe and Owens: 3 × years + 7. Best Guess: (months + 9) ÷ 2 under 1 year, "
        "2 × (years + 5) under 5, 4 × years from 5 to 14 years"
    ),
    source=(
        "APLS 2011: Marikar D. BMJ Innov 2015, doi 10.1136/bmjinnov-2015-000059. APLS original, Luscombe and Owens: "
        "Arch Dis Child 2007;92:412; Emerg Med J 2011;28:590-3 (1 to 13 years). Best Guess: resus.me, Weight formula "
        "for kids"
    ),
    source_read=READ,
    limits=(
        "An estimate only: weigh the child, use a length tape or ask the parents wherever that is possible. Made with "
        "British and Australian children: of an undernourished child they say too much, and so lead to overdose."
    ),
)  # fmt: skip


def check(given: Given) -> list[InputFault]:
    """The fault of an age for which the chosen formula was not made."""
    if not given.has("formula", "age_months"):
        return []
    formula = FORMULAS[given.choice("formula")]
    why = f" for {given.choice('formula')}"
    return range_fault(given, "age_months", formula.from_months, formula.to_months, "months", why)


def work(given: Given) -> Outcome:
    """The estimated weight in kg."""
    name = given.choice("formula")
    weight = FORMULAS[name].weight(int(given.number("age_months")))
    warnings = (
        "An estimate only, not a measured weight; weigh the child as soon as possible.",
        "In a study of 410 children the best of these formulas came within 10 % of the weight in 45 %.",
    )
    return Outcome((calculated(f"estimated weight ({name})", weight, "kg", HALF),), "estimate", warnings)


CALCULATOR = Calculator(FORM, work, check)
