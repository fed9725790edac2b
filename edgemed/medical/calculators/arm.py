"""Mid-upper arm circumference: the bands of acute malnutrition."""

from __future__ import annotations

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
from edgemed.medical.calculators.rounding import AS_IS, calculated

CHILD, PREGNANT, BREASTFEEDING = "child of 6 to 59 months", "pregnant woman", "breastfeeding woman"
SEVERE_BELOW_MM, MODERATE_BELOW_MM = 115, 125
WOMAN_LOW_BELOW_MM, WOMAN_WATCH_BELOW_MM = 210, 230

FORM = CalculatorForm(
    name="muac",
    title="Mid-upper arm circumference (MUAC)",
    purpose="The band of acute malnutrition of a child, or whether a pregnant or breastfeeding woman is at risk.",
    inputs=(
        CalculatorInput(name="group", label="Patient", kind="choice", choices=(CHILD, PREGNANT, BREASTFEEDING)),
        CalculatorInput(
            name="muac_mm", label="Mid-upper arm circumference", kind="number", unit="mm", minimum=60, maximum=500,
            note="left arm, midway between shoulder and elbow; 12.5 cm is 125 mm",
        ),
        CalculatorInput(
            name="age_months", label="Age of the child", kind="number", unit="months", minimum=6, maximum=59,
            whole=True, required=False, note="completed months; needed for a child",
        ),
        CalculatorInput(
            name="oedema_of_both_feet", label="Oedema of both feet", kind="boolean", required=False,
            note="needed for a child: press with the thumbs for 3 seconds",
        ),
    ),
    formula=(
        "child: below 115 mm or oedema of both feet severe, 115 to below 125 mm moderate, from 125 mm no acute "
        "malnutrition by MUAC; woman: below 210 mm at risk, 210 to below 230 mm at risk in some countries"
    ),
    source=(
        "WHO and UNICEF, WHO child growth standards and the identification of severe acute malnutrition, 2009, as "
        "adapted in UpToDate graphic 60869; women: Sphere, as quoted by Ververs M et al. PLoS Currents Disasters 2013"
    ),
    source_read=READ,
    limits=(
        "Children of 6 to 59 months; no band is set for younger ones. For women there is no agreed threshold: Sphere "
        "names 210 to 230 mm by country and 210 mm in emergencies; that review advises below 230 mm. Sphere and the "
        "review speak of pregnancy; for breastfeeding the same bands are used. Follow the national protocol."
    ),
)  # fmt: skip


def check(given: Given) -> list[InputFault]:
    """The faults of what a child needs and a woman does not have."""
    if not given.has("group"):
        return []
    needed = {"age_months": "a whole number from 6 to 59 months", "oedema_of_both_feet": "true or false"}
    if given.choice("group") == CHILD:
        return [
            InputFault(name=name, problem=f"missing; for a child {what} is needed")
            for name, what in needed.items()
            if not given.has(name)
        ]
    return [InputFault(name=name, problem="only for a child") for name in needed if given.has(name)]


def work(given: Given) -> Outcome:
    """The circumference and its band."""
    millimetres = given.number("muac_mm")
    values = (calculated("mid-upper arm circumference", millimetres, "mm", AS_IS),)
    if given.choice("group") != CHILD:
        return _woman(given, values)
    if given.flag("oedema_of_both_feet"):
        return Outcome(values, "severe acute malnutrition", ("Oedema of both feet is severe at any arm size.",))
    if millimetres < SEVERE_BELOW_MM:
        return Outcome(values, "severe acute malnutrition")
    if millimetres < MODERATE_BELOW_MM:
        return Outcome(values, "moderate acute malnutrition")
    missed = "MUAC misses some children whose weight for height is low: weigh and measure as well."
    return Outcome(values, "no acute malnutrition by MUAC", (missed,))


def _woman(given: Given, values: tuple[CalculatedValue, ...]) -> Outcome:
    millimetres = given.number("muac_mm")
    warnings = ("Countries set this threshold between 210 and 230 mm: follow the national protocol.",)
    if millimetres < WOMAN_LOW_BELOW_MM:
        category = "at risk: below 210 mm"
    elif millimetres < WOMAN_WATCH_BELOW_MM:
        category = "at risk in some countries: 210 to below 230 mm"
    else:
        category = "not at risk by MUAC: 230 mm or more"
    return Outcome(values, category, warnings)


CALCULATOR = Calculator(FORM, work, check)
