"""Weight for age from birth to 60 months, as a z-score of the WHO Child Growth Standards.

`who_weight_for_age.csv` holds WHO's L, M and S: by the day in the first week, by the week to 12 weeks, by the month
from 3 months on; between two ages they are interpolated. Compared with WHO's table of all days, a z-score between
-3 and 3 differs by 0.03 at most. A table of months alone would be wrong by 0.27 in the first weeks.
"""

from __future__ import annotations

import csv
import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import cache
from importlib import resources

from edgemed.medical.calculators.given import Given, range_fault
from edgemed.medical.calculators.record import (
    READ,
    Calculator,
    CalculatorForm,
    CalculatorInput,
    InputFault,
    Outcome,
)
from edgemed.medical.calculators.rounding import HUNDREDTH, TENTH, calculated

DAYS, WEEKS, MONTHS = "days", "weeks", "months"
DAYS_OF = {DAYS: 1.0, WEEKS: 7.0, MONTHS: 30.4375}
# In the first months a child gains weight so fast that completed months are too coarse.
AGE_RANGE = {DAYS: (0, 1826), WEEKS: (0, 260), MONTHS: (3, 60)}
IMPLAUSIBLE_BELOW, IMPLAUSIBLE_ABOVE = -6, 5

FORM = CalculatorForm(
    name="weight_for_age",
    title="Weight for age (WHO)",
    purpose="The weight-for-age z-score of a child from birth to 60 months, and whether it is underweight.",
    inputs=(
        CalculatorInput(name="sex", label="Sex", kind="choice", choices=("female", "male")),
        CalculatorInput(
            name="age", label="Age", kind="number", minimum=0, maximum=1826,
            note="0 to 1826 days, 0 to 260 weeks, or 3 to 60 months; under 3 months in days or weeks",
        ),
        CalculatorInput(name="age_unit", label="Unit of the age", kind="choice", choices=(DAYS, WEEKS, MONTHS)),
        CalculatorInput(name="weight_kg", label="Weight", kind="number", unit="kg", minimum=0.5, maximum=60),
        CalculatorInput(
            name="oedema_of_both_feet", label="Oedema of both feet", kind="boolean",
            note="press with the thumbs for 3 seconds",
        ),
    ),
    formula=(
        "z = ((weight ÷ M)^L − 1) ÷ (L × S); beyond ±3 measured in the distance between the weights at 2 and 3. "
        "Below −3 severely underweight, −3 to below −2 underweight"
    ),
    source=(
        "WHO Child Growth Standards (2006), weight-for-age L, M, S: tables by month in WHO's application Primary "
        "health care 0 to 18 years (October 2023) and by day as published for WHO Anthro; formula: WHO's R package "
        "anthro; bands: WHO Nutrition Landscape Information System, and BMJ Global Health table of case definitions"
    ),
    source_read=READ,
    limits=(
        "Birth to 60 months. Refused in oedema of both feet, where the weight says nothing. A completed "
        " month can hide up to a month of growth: days are better. Weight for age "
        "shows neither wasting nor overweight: use weight for length or MUAC."
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class LmsPoint:
    """WHO's Box-Cox power L, median M in kg and coefficient of variation S at one age in days."""

    age_days: float
    power: float
    median: float
    variation: float

    def weight_at(self, z: float) -> float:
        """The weight in kg at a z-score."""
        if abs(self.power) < 1e-9:
            return self.median * math.exp(self.variation * z)
        return float(self.median * (1 + self.power * self.variation * z) ** (1 / self.power))

    def z_of(self, weight_kg: float) -> float:
        """The z-score of a weight, with WHO's rule for weights beyond 3 standard deviations."""
        ratio = weight_kg / self.median
        if abs(self.power) < 1e-9:
            z = math.log(ratio) / self.variation
        else:
            z = (ratio**self.power - 1) / (self.power * self.variation)
        if abs(z) <= 3:
            return z
        side = math.copysign(1, z)
        third, second = self.weight_at(3 * side), self.weight_at(2 * side)
        return side * 3 + (weight_kg - third) / abs(third - second)


@cache
def standard(sex: str) -> tuple[LmsPoint, ...]:
    """WHO's points for one sex, youngest first."""
    file = resources.files("edgemed.medical.calculators").joinpath("who_weight_for_age.csv")
    rows = csv.DictReader(file.read_text(encoding="utf-8").splitlines())
    return tuple(
        LmsPoint(float(row["age"]) * DAYS_OF[row["unit"]], float(row["l"]), float(row["m"]), float(row["s"]))
        for row in rows
        if row["sex"] == sex
    )


def point_at(sex: str, age_days: float) -> LmsPoint:
    """The standard at an age between birth and 60 months, interpolated between WHO's points."""
    points = standard(sex)
    index = min(bisect_right(points, age_days, key=lambda point: point.age_days), len(points) - 1)
    before, after = points[index - 1], points[index]
    share = min((age_days - before.age_days) / (after.age_days - before.age_days), 1.0)
    return LmsPoint(
        age_days,
        before.power + share * (after.power - before.power),
        before.median + share * (after.median - before.median),
        before.variation + share * (after.variation - before.variation),
    )


def check(given: Given) -> list[InputFault]:
    """The faults of an age out of range in its unit, and of oedema."""
    faults = []
    if given.has("age", "age_unit"):
        unit = given.choice("age_unit")
        low, high = AGE_RANGE[unit]
        faults += range_fault(given, "age", low, high, unit)
    if given.has("oedema_of_both_feet") and given.flag("oedema_of_both_feet"):
        told = "with oedema of both feet no z-score holds; treat it as severe acute malnutrition"
        faults.append(InputFault(name="oedema_of_both_feet", problem=told))
    return faults


def work(given: Given) -> Outcome:
    """The z-score, the median weight at this age, and the band."""
    age_days = float(given.number("age")) * DAYS_OF[given.choice("age_unit")]
    point = point_at(given.choice("sex"), age_days)
    z = calculated("weight-for-age z-score", point.z_of(float(given.number("weight_kg"))), "SD", HUNDREDTH)
    values = (z, calculated("median weight at this age", point.median, "kg", TENTH))
    assert not isinstance(z.value, str)
    return Outcome(values, _band(z.value), _warnings(z.value, given))


def _band(z: float) -> str:
    if z < -3:
        return "severely underweight (below -3)"
    if z < -2:
        return "underweight (-3 to below -2)"
    return "not underweight (-2 or above)"


def _warnings(z: float, given: Given) -> tuple[str, ...]:
    warnings = []
    if not IMPLAUSIBLE_BELOW <= z <= IMPLAUSIBLE_ABOVE:
        warnings.append("WHO takes z-scores below -6 or above 5 for errors: weigh again and check the age.")
    if given.choice("age_unit") == MONTHS:
        warnings.append("Counted at exactly this number of months; a child some weeks older scores lower.")
    if z < -2:
        warnings.append("Measure MUAC and weight for length, and look at the growth since the last visit.")
    return tuple(warnings)


CALCULATOR = Calculator(FORM, work, check)
