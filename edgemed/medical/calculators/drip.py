"""The rate of an infusion: mL per hour for a pump, drops per minute for a set without one."""

from __future__ import annotations

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
from edgemed.medical.calculators.rounding import TENTH, WHOLE, calculated, rounded

HOURS, MINUTES = "hours", "minutes"
TIME_RANGE = {HOURS: (0.05, 72), MINUTES: (3, 4320)}
DROP_FACTORS = ("10", "15", "20", "60")
UNCOUNTABLE_DROPS_PER_MIN = 150

FORM = CalculatorForm(
    name="drip_rate",
    title="Drip rate of an infusion",
    purpose="The rate of an infusion in mL per hour and in drops per minute.",
    inputs=(
        CalculatorInput(
            name="volume_ml", label="Volume to infuse", kind="number", unit="mL", minimum=1, maximum=10000
        ),
        CalculatorInput(
            name="time", label="Time to infuse it in", kind="number", minimum=0.05, maximum=4320,
            note="0.05 to 72 hours, or 3 to 4320 minutes",
        ),
        CalculatorInput(name="time_unit", label="Unit of the time", kind="choice", choices=(HOURS, MINUTES)),
        CalculatorInput(
            name="drop_factor", label="Drop factor", kind="choice", unit="drops/mL", choices=DROP_FACTORS,
            note="printed on the package of the infusion set",
        ),
    ),
    formula="mL/h = volume ÷ hours; drops/min = volume × drops per mL ÷ minutes",
    source="TestAndCalc, Drug calculations help: IV flow rates (undated page), formula and first example",
    source_read=READ,
    limits="Count the drops for a whole minute, and again later: the rate drifts. The ranges are this program's own.",
)  # fmt: skip


def check(given: Given) -> list[InputFault]:
    """The fault of a time that is out of range in its unit."""
    if not given.has("time", "time_unit"):
        return []
    unit = given.choice("time_unit")
    low, high = TIME_RANGE[unit]
    return range_fault(given, "time", low, high, unit)


def work(given: Given) -> Outcome:
    """The rate in mL per hour and in drops per minute."""
    minutes = given.number("time") * (60 if given.choice("time_unit") == HOURS else 1)
    volume = given.number("volume_ml")
    drops = volume * int(given.choice("drop_factor")) / minutes
    values = (
        calculated("rate", volume * 60 / minutes, "mL/h", TENTH),
        calculated("drops", drops, "drops/min", WHOLE),
    )
    return Outcome(values, warnings=_warnings(drops))


def _warnings(drops: Fraction) -> tuple[str, ...]:
    warnings = []
    if drops > UNCOUNTABLE_DROPS_PER_MIN:
        warnings.append("Too fast to count: use a set with fewer drops per mL, or watch the volume and the clock.")
    if abs(rounded(drops, WHOLE) - drops) > drops / 20:
        warnings.append("Whole drops miss the rate by more than 5 %: use a set with more drops per mL, or a pump.")
    return tuple(warnings)


CALCULATOR = Calculator(FORM, work, check)
