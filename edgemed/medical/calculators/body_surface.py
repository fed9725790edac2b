"""Body surface area by Mosteller's formula."""

from __future__ import annotations

import math

from edgemed.medical.calculators.given import Given, range_fault
from edgemed.medical.calculators.record import (
    READ,
    Calculator,
    CalculatorForm,
    CalculatorInput,
    InputFault,
    Outcome,
)
from edgemed.medical.calculators.rounding import HUNDREDTH, calculated

CHILD, ADULT = "child under 18 years", "adult"
UNITS = {"height_cm": "cm", "weight_kg": "kg"}
RANGES = {
    CHILD: {"height_cm": (40, 200), "weight_kg": (1, 150)},
    ADULT: {"height_cm": (100, 230), "weight_kg": (25, 300)},
}

FORM = CalculatorForm(
    name="body_surface_area",
    title="Body surface area (Mosteller)",
    purpose="The body surface area in m², for doses that are given per m².",
    inputs=(
        CalculatorInput(name="group", label="Patient", kind="choice", choices=(CHILD, ADULT)),
        CalculatorInput(
            name="height_cm", label="Height or length", kind="number", unit="cm", minimum=40, maximum=230,
            note="40 to 200 cm for a child, 100 to 230 cm for an adult",
        ),
        CalculatorInput(
            name="weight_kg", label="Weight", kind="number", unit="kg", minimum=1, maximum=300,
            note="1 to 150 kg for a child, 25 to 300 kg for an adult",
        ),
    ),
    formula="body surface area (m²) = √(height in cm × weight in kg ÷ 3600)",
    source=(
        "Mosteller RD. Simplified calculation of body-surface area. N Engl J Med 1987;317:1098, "
        "as quoted by GlobalRPh, Body surface area, reference 4"
    ),
    source_read=READ,
    limits=(
        "Other formulas (Du Bois, Haycock, Gehan and George) differ by several per cent: stay with one of them for "
        "a patient. The ranges guard against slips of the pen and are this program's own."
    ),
)  # fmt: skip


def check(given: Given) -> list[InputFault]:
    """The faults of a height or weight that no child, or no adult, has."""
    if not given.has("group"):
        return []
    faults = []
    for name, (low, high) in RANGES[given.choice("group")].items():
        if given.has(name):
            faults += range_fault(given, name, low, high, UNITS[name], f" ({given.choice('group')})")
    return faults


def work(given: Given) -> Outcome:
    """The body surface area in m²."""
    area = math.sqrt(given.number("height_cm") * given.number("weight_kg") / 3600)
    return Outcome((calculated("body surface area", area, "m²", HUNDREDTH),))


CALCULATOR = Calculator(FORM, work, check)
