"""Dehydration of a child with diarrhoea: its class by WHO's signs, and the fluid of treatment plans A, B and C."""

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
from edgemed.medical.calculators.rounding import AS_IS, FIVE, calculated

WELL, RESTLESS, LETHARGIC = "well, alert", "restless or irritable", "lethargic or unconscious"
DRINKS, EAGER, UNABLE = "drinks normally", "drinks eagerly, thirsty", "drinks poorly or cannot drink"
QUICK, SLOW, VERY_SLOW = "goes back at once", "goes back slowly", "goes back very slowly (2 seconds or more)"
PLAN_A, PLAN_B, PLAN_C = "A: at home", "B: ORS in the clinic", "C: IV fluid, severe"

MALNOURISHED = "A child with severe acute malnutrition is treated in hospital or by the national programme: refer."

PLAN_B_BY_AGE = ((4, 200, 400), (12, 400, 700), (24, 700, 900), (60, 900, 1400))
"""Below this age in months: the least and the most ORS in mL over 4 hours."""

SOURCE = "WHO, Primary health care for children and adolescents (application, October 2023), chapter 6, Diarrhoea, "
_AGE = CalculatorInput(
    name="age_months", label="Age", kind="number", unit="months", minimum=2, maximum=59, whole=True,
    note="completed months; for younger infants IMCI has another chart",
)  # fmt: skip
_MALNUTRITION = CalculatorInput(
    name="severe_malnutrition", label="Severe acute malnutrition", kind="boolean",
    note="yes: MUAC below 115 mm, severe wasting, or oedema of both feet",
)  # fmt: skip

SIGNS_FORM = CalculatorForm(
    name="dehydration_plan",
    title="Dehydration of a child with diarrhoea",
    purpose="No, some or severe dehydration, and the treatment plan that follows.",
    inputs=(
        _AGE,
        CalculatorInput(
            name="condition", label="General condition", kind="choice", choices=(WELL, RESTLESS, LETHARGIC)
        ),
        CalculatorInput(name="sunken_eyes", label="Sunken eyes", kind="boolean", note="ask whether they are as usual"),
        CalculatorInput(name="drinking", label="Offered a drink", kind="choice", choices=(DRINKS, EAGER, UNABLE)),
        CalculatorInput(
            name="skin_pinch", label="Skin pinch of the belly", kind="choice", choices=(QUICK, SLOW, VERY_SLOW)
        ),
        _MALNUTRITION,
    ),
    formula=(
        "severe: 2 or more of lethargic or unconscious, sunken eyes, drinks poorly or cannot drink, skin pinch very "
        "slow; some: 2 or more of restless or irritable, sunken eyes, drinks eagerly, skin pinch slow, where a severe "
        "sign counts as well; else no dehydration"
    ),
    source=SOURCE + "table Classification of the severity of dehydration",
    source_read=READ,
    limits=(
        "Children of 2 to 59 months with diarrhoea. That a single severe sign counts towards some dehydration is this "
        "program's own, cautious reading (from memory of IMCI training). In severe malnutrition the signs mislead."
    ),
)  # fmt: skip

VOLUME_FORM = CalculatorForm(
    name="ors_volume",
    title="Fluid of treatment plans A, B and C",
    purpose="How much ORS or IV fluid a child with diarrhoea gets under a treatment plan, and how fast.",
    inputs=(
        CalculatorInput(name="plan", label="Treatment plan", kind="choice", choices=(PLAN_A, PLAN_B, PLAN_C)),
        _AGE,
        CalculatorInput(
            name="weight_kg", label="Weight", kind="number", unit="kg", minimum=2, maximum=30, required=False,
            note="needed for plan C; without it plan B goes by age",
        ),
        _MALNUTRITION,
    ),
    formula=(
        "A: after each loose stool 50 to 100 mL under 2 years, 100 to 200 mL from 2 years on. B: 75 mL/kg of ORS over "
        "4 h; weight unknown: under 4 months 200 to 400, under 12 months 400 to 700, under 2 years 700 to 900, under 5 "
        "years 900 to 1400 mL. C: 100 mL/kg Ringer's lactate or normal saline IV: 30 mL/kg in 1 h then 70 mL/kg in 5 h "
        "under 12 months, 30 mL/kg in 30 min then 70 mL/kg in 2.5 h from 12 months on; without IV, ORS by tube or "
        "mouth 20 mL/kg per hour for 6 h"
    ),
    source=SOURCE + "charts 1A, 1B and 1C",
    source_read=READ,
    limits="Children of 2 to 59 months. Plans B and C are refused in severe acute malnutrition: other fluids are due.",
)  # fmt: skip


def classify(given: Given) -> Outcome:
    """No, some or severe dehydration, with the count of signs."""
    eyes = given.flag("sunken_eyes")
    found = [
        (given.choice("condition"), RESTLESS, LETHARGIC),
        (given.choice("drinking"), EAGER, UNABLE),
        (given.choice("skin_pinch"), SLOW, VERY_SLOW),
    ]
    severe = eyes + sum(sign == worst for sign, _, worst in found)
    some = eyes + sum(sign in (bad, worst) for sign, bad, worst in found)
    values = (
        calculated("signs of severe dehydration", severe, "signs", AS_IS),
        calculated("signs of some dehydration or worse", some, "signs", AS_IS),
    )
    warnings = ["Look for general danger signs and shock first."] if severe else []
    if severe >= 2:
        category, plan = "severe dehydration", "plan C, refer urgently"
    elif some >= 2:
        category, plan = "some dehydration", "plan B"
    else:
        category, plan = "no dehydration", "plan A"
    if given.flag("severe_malnutrition"):
        plan = "severe acute malnutrition, refer"
        warnings.append(f"{MALNOURISHED} Plans B and C do not hold: ReSoMal, slowly.")
    return Outcome(values, f"{category}: {plan}", tuple(warnings))


def check(given: Given) -> list[InputFault]:
    """The faults of plan C without a weight, and of plans B and C in severe malnutrition."""
    if not given.has("plan"):
        return []
    plan = given.choice("plan")
    faults = []
    if plan == PLAN_C and not given.has("weight_kg"):
        faults.append(InputFault(name="weight_kg", problem="missing; plan C needs a number from 2 to 30 kg"))
    if plan != PLAN_A and given.has("severe_malnutrition") and given.flag("severe_malnutrition"):
        told = (
            "plans B and C overload a child with severe acute malnutrition; use the national protocol (ReSoMal), refer"
        )
        faults.append(InputFault(name="severe_malnutrition", problem=told))
    return faults


def fluid(given: Given) -> Outcome:
    """The volumes and rates of the plan."""
    plan, months = given.choice("plan"), int(given.number("age_months"))
    if plan == PLAN_A:
        return _plan_a(months, given.flag("severe_malnutrition"))
    weight = given.maybe("weight_kg")
    if plan == PLAN_B:
        return _plan_b(months, weight)
    return _plan_c(months, given.number("weight_kg"))


def _plan_a(months: int, malnourished: bool) -> Outcome:
    least, most = (50, 100) if months < 24 else (100, 200)
    values = (
        calculated("ORS after each loose stool, at least", least, "mL", AS_IS),
        calculated("ORS after each loose stool, up to", most, "mL", AS_IS),
    )
    warnings = ("Besides the usual drinks; more if the child wants it.",)
    return Outcome(values, "plan A", (*warnings, MALNOURISHED) if malnourished else warnings)


def _plan_b(months: int, weight: Fraction | None) -> Outcome:
    again = "Assess again after 4 hours, sooner if the child gets worse; more ORS if the child wants it."
    if weight is not None:
        values: tuple[CalculatedValue, ...] = (
            calculated("ORS over 4 hours", weight * 75, "mL", FIVE),
            calculated("ORS in each hour", weight * 75 / 4, "mL/h", FIVE),
        )
        return Outcome(values, "plan B, by weight", (again,))
    least, most = next((least, most) for below, least, most in PLAN_B_BY_AGE if months < below)
    values = (
        calculated("ORS over 4 hours, at least", least, "mL", AS_IS),
        calculated("ORS over 4 hours, up to", most, "mL", AS_IS),
    )
    return Outcome(
        values, "plan B, by age", (again, "By age, because no weight was given: weigh the child if possible.")
    )


def _plan_c(months: int, weight: Fraction) -> Outcome:
    infant = months < 12
    first_hours, then_hours = (Fraction(1), Fraction(5)) if infant else (Fraction(1, 2), Fraction(5, 2))
    first, then = weight * 30, weight * 70
    values = (
        calculated("first IV volume", first, "mL", FIVE),
        calculated("time of the first volume", first_hours * 60, "minutes", AS_IS),
        calculated("rate of the first volume", first / first_hours, "mL/h", FIVE),
        calculated("second IV volume", then, "mL", FIVE),
        calculated("time of the second volume", then_hours * 60, "minutes", AS_IS),
        calculated("rate of the second volume", then / then_hours, "mL/h", FIVE),
        calculated("IV volume in total", weight * 100, "mL", FIVE),
        calculated("without IV: ORS by tube or mouth, for 6 hours", weight * 20, "mL/h", FIVE),
    )
    warnings = (
        "Refer urgently; start while the transfer is arranged. Ringer's lactate or normal saline, never plain glucose.",
        "Repeat the first volume once if the pulse at the wrist is still weak or not felt.",
        "Assess every 15 to 30 minutes and watch for too much fluid.",
        "Once the child drinks, ORS by mouth as well: about 5 mL/kg per hour.",
        f"Classify again after {6 if infant else 3} hours.",
    )
    return Outcome(values, "plan C", warnings)


SIGNS = Calculator(SIGNS_FORM, classify)
FLUID = Calculator(VOLUME_FORM, fluid, check)
