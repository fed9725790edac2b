"""Dose by weight: mg per kg, for each dose or for the day, under a maximum, and the volume to draw up."""

from __future__ import annotations

from fractions import Fraction

from edgemed.medical.calculators.given import Given
from edgemed.medical.calculators.record import (
    READ,
    CalculatedValue,
    Calculator,
    CalculatorForm,
    CalculatorInput,
    InputFault,
    Outcome,
)
from edgemed.medical.calculators.rounding import DOSE, VOLUME, calculated, text_of

PER_DOSE, PER_DAY = "per dose", "per day"
ADULT_SIZED_KG = 40
SMALLEST_VOLUME_ML = Fraction(1, 10)

_INPUTS = (
    CalculatorInput(
        name="weight_kg", label="Weight of the patient", kind="number", unit="kg", minimum=0.3, maximum=300,
        note="measured today; an estimate only where weighing is impossible",
    ),
    CalculatorInput(name="dose_mg_per_kg", label="Dose", kind="number", unit="mg/kg", minimum=0.0001, maximum=1000),
    CalculatorInput(
        name="basis", label="The dose is meant", kind="choice", choices=(PER_DOSE, PER_DAY),
        note="per day: the amount is divided by the doses in a day",
    ),
    CalculatorInput(
        name="doses_per_day", label="Doses in a day", kind="number", minimum=1, maximum=24, whole=True, required=False,
        note="needed for a dose per day and for a daily maximum",
    ),
    CalculatorInput(
        name="maximum_single_mg", label="Maximum for one dose", kind="number", unit="mg", minimum=0.001,
        maximum=100000, required=False,
    ),
    CalculatorInput(
        name="maximum_daily_mg", label="Maximum for a day", kind="number", unit="mg", minimum=0.001, maximum=100000,
        required=False,
    ),
    CalculatorInput(
        name="strength_mg_per_ml", label="Strength of the liquid", kind="number", unit="mg/mL", minimum=0.001,
        maximum=1000, required=False, note="gives the volume; 250 mg in 5 mL is 50 mg/mL",
    ),
)  # fmt: skip

FORM = CalculatorForm(
    name="weight_based_dose",
    title="Dose by weight",
    purpose="One dose in mg, and in mL where the strength is known, from a dose in mg per kg.",
    inputs=_INPUTS,
    formula=(
        "one dose = weight × dose per kg (÷ doses in a day, where the dose is meant per day), at most the maximum "
        "for one dose and at most the daily maximum ÷ doses in a day; volume = one dose ÷ strength"
    ),
    source="Davis's Drug Guide, Pediatric Dosage Calculations (Unbound Medicine, undated page), examples 1 and 2",
    source_read=READ,
    limits=(
        "Doses in mg only: change micrograms, grams and units first. The dose per kg, the maximum and the strength "
        "come from the drug's own leaflet or formulary; this program supplies none of them. The ranges guard "
        "against slips of the pen and are this program's own."
    ),
)


def check(given: Given) -> list[InputFault]:
    """The faults between fields: a count of doses that is needed, and maxima that contradict each other."""
    faults = []
    per_day = given.has("basis") and given.choice("basis") == PER_DAY
    if (per_day or given.has("maximum_daily_mg")) and not given.has("doses_per_day"):
        why = "a dose per day" if per_day else "a daily maximum"
        faults.append(InputFault(name="doses_per_day", problem=f"{why} needs it, a whole number from 1 to 24"))
    if given.has("maximum_single_mg", "maximum_daily_mg"):
        single, daily = given.number("maximum_single_mg"), given.number("maximum_daily_mg")
        if daily < single:
            told = f"the daily maximum of {text_of(daily)} mg is below the {text_of(single)} mg for one dose"
            faults += [InputFault(name=name, problem=told) for name in ("maximum_single_mg", "maximum_daily_mg")]
    return faults


def work(given: Given) -> Outcome:
    """One dose, the day's total and the volume; the category says whether a maximum capped the dose."""
    wanted = given.number("weight_kg") * given.number("dose_mg_per_kg")
    count = given.maybe("doses_per_day")
    if given.choice("basis") == PER_DAY and count is not None:
        wanted /= count
    ceiling, cap = _ceiling(given, count)
    dose = wanted if ceiling is None else min(wanted, ceiling)
    values = [calculated("one dose", dose, "mg", DOSE, ceiling)]
    if dose < wanted:
        values.append(calculated("one dose before the maximum", wanted, "mg", DOSE))
    if count is not None:
        values.append(calculated("total in a day", dose * count, "mg", DOSE, given.maybe("maximum_daily_mg")))
    volume = _volume(given, dose, ceiling)
    values += volume
    category = "no maximum was given" if ceiling is None else f"capped by the {cap}" if dose < wanted else "not capped"
    return Outcome(tuple(values), category, _warnings(given, ceiling, volume, dose < wanted, cap))


def _ceiling(given: Given, count: Fraction | None) -> tuple[Fraction | None, str]:
    """The largest dose that the maxima allow, and which of them says so."""
    allowed = []
    if (single := given.maybe("maximum_single_mg")) is not None:
        allowed.append((single, "maximum for one dose"))
    if (daily := given.maybe("maximum_daily_mg")) is not None and count is not None:
        allowed.append((daily / count, "maximum for a day"))
    return min(allowed, default=(None, ""), key=lambda pair: pair[0])


def _volume(given: Given, dose: Fraction, ceiling: Fraction | None) -> list[CalculatedValue]:
    strength = given.maybe("strength_mg_per_ml")
    if strength is None:
        return []
    limit = None if ceiling is None else ceiling / strength
    return [calculated("volume of one dose", dose / strength, "mL", VOLUME, limit)]


def _warnings(
    given: Given, ceiling: Fraction | None, volume: list[CalculatedValue], capped: bool, cap: str
) -> tuple[str, ...]:
    warnings = []
    if capped:
        warnings.append(f"The dose was capped by the {cap}.")
    if ceiling is None:
        warnings.append("No maximum was given, so nothing caps this dose: look up the maximum.")
        if given.number("weight_kg") >= ADULT_SIZED_KG:
            warnings.append(f"From {ADULT_SIZED_KG} kg up a dose per kg can pass the adult dose.")
    for each in volume:
        if each.exact is not None and Fraction(each.exact) < SMALLEST_VOLUME_ML:
            warnings.append("The volume is too small to measure: use a weaker preparation or dilute it.")
    return tuple(warnings)


CALCULATOR = Calculator(FORM, work, check)
