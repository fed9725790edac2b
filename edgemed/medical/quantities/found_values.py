"""Whether an amount is a value that was found, or food, and nothing that is given: by its unit and the words beside it.

A laboratory value has its unit ("mg/dL", "ng/mL"), a flow its time and tissue ("mL/min/100 g"), an excretion and a
content their words, a nutrient its name. What no word says is a dose.
"""

from __future__ import annotations

import re

from edgemed.medical.quantities.numbers import joined

_LAB_UNIT = re.compile(
    joined(
        r"""^(?:g|mg|mcg|ng|pg|mmol|mcmol|nmol|pmol|mEq|IU|mIU|mOsm|cell|copy|)/(?:dL|L|mcL)$|^g/mL$|^(?:ng|pg
                |mIU|mcg|IU
            |cell|copy|mmol|mcmol|nmol|pmol)/mL$
        |^(?:g|mg|mcg|mEq)/100 mL$|^(?:mg|mcg|ng|pg|mmol|mcmol|nmol|pmol)/(?:\d+ )?(?:mg|g|mmol|mol)(?:/|$)|^mOsm/kg$
        |^(?:mmHg|cmH2O|°C|°F|degree|%|kPa|kcal|cm|mm|m
        |km|m2|cell|copy|lb|oz
        |inch|foot|kg)(?:/|$)
        |^(?:beat|breath)?/min$|^/s$|m2$"""
    )
)
_DOSED = re.compile(r"^(?:mg|mcg|ng|g|IU|MIU|mmol|mEq|mL|drop)/m2|^L/min$|^(?:mg|mcg|ng)/kg")
_FLOW_UNIT = re.compile(r"^(?:mL|L|mcL|nL)(?:/(?:kg|g|\d+ g|m2|beat|tablet))?/(?:min|h|s)(?:/|$)")
_PER_TISSUE = re.compile(r" ?(?:/|per) ?(?:glomerul|cells?\b|nephron|tissue|protein|crea|gland)")
_OF_BODY = re.compile(r"\bb(?:ody|\.?w)")
_TISSUE = re.compile(r"/(?:\d+ )?g(?:/|$)|^(?:mL|mcL|nL)/s")
_FLOW = re.compile(
    r"\b(?:e?gfr|clearances?|crcl|ccr|creatinine|filtration|kidney function|renal function|peak flow|pefr?|urine|output"
    r"|clcr|co|ventilation|vo2|flows?|index|perfusion|consumption|uptake|velocity)\b[^.;]{0,40}$"
)
_FLOW_AFTER = re.compile(r" (?:of )?(?:[a-z]+ )?(?:urine|clearance|output|blood flow)\b")
_OUTPUT = re.compile(
    joined(
        r"""\b(?:urine|urinary|uop|u/o|output|passed|drain(?:ed|age|s)?|blood loss|lost|loss|losing|bled|residual
            |volumes?|stroke|aspirate[d]?
        |capacity|pus|effusion|fluid removed|vomit(?:ed)?|bleeding|ebl|collected|haemorrhage|hemorrhage|excret(?:ed
        |ion|es)|contain(?:s|ed|ing))
        \b[^.;]{0,22}$"""
    )
)
_NOT_A_DRUG = r"(?! ?(?:chloride|bicarb|valpro|nitropr|citrate|phosphate|sulfate|sulphate|fluoride|stibo|oxybate))"
_NUTRIENT = joined(
    rf"""(?:fib(?:er|re)|fats?|(?:un)?saturated fat|sugars?|carbohydrates?|carbs|sodium{_NOT_A_DRUG}|salt|lactose|gluten
    |calories|alcohol|caffeine|protein|cholesterol|fruit|vegetables|potassium(?= intake))"""
)
_OUTPUT_AFTER = re.compile(
    rf" (?:\([^()]{{1,14}}\) )?(?:or (?:more|less) )?(?:of )?(?:(?!and\b)[a-z]+ )?(?:urine|blood samples?"
    rf"|blood loss|pus"
    rf"|bleeding|drained|lost|clear fluid"
    rf"|albumin for"
    rf"|milk|{_NUTRIENT})\b(?! ?- ?free)"
)
_SOLUTION_AFTER = re.compile(
    r" (?:w/v |aqueous |topical )?(?:solution|paint|cream|ointment|gel|lotion|eye|drops|shampoo|mouthwash"
    r"|injection|spray"
    r"|paste)\b"
)
_EXCRETED = re.compile(
    r"\b(?:urin(?:e|ary)|[a-z]{4,}uria|protein|excret(?:ion|ed)|albuminuria|deficits?|balance|content|losses|excess)\b"
    r"[^.;,]{0,24}(?:, ?)?$"
)
_BLOOD_VALUE = re.compile(
    r"\b(?:bun|urea|creatinine|bilirubin|protein|albumin|cholesterol|levels?|serum|plasma"
    r"|blood)\b[^.;,(]{0,40}[ :=(]{1,3}$"
)
_LEVELS_BEFORE = re.compile(
    r"\blevels? (?:(?:higher|lower|greater|less|more) than|above|below|over|under|of|up to|from) $"
)
_ORGAN_WEIGHT = re.compile(r"\b(?:weight|weighed|weighing|mass)\b[^.;,]{0,24}$")
_EATEN = re.compile(
    rf"\b(?:allowance|dietary|(?!sodium (?!intake|to\b|\(salt|content|is\b|should|consum|they|you|people|each"
    rf"|in\b)){_NUTRIENT}) "
    r"(?:(?:\(salt\)|[a-z]+) ){0,6}$"
)
_EATEN_AFTER = re.compile(
    r"(?: (?:of|cooked|raw|dried|fresh|low-fat|skim|whole))* (?:milk|juice|fruits?|vegetables|berries|beans|food|meat"
    r"|cheese|yogh?urt|nuts|rice|pasta|bread|caffeine|cereal|coffee|tea|beer|wine|lactose|urine|table salt"
    r"|carbohydrates?|honey|sugar|diet|dietary [a-z]+)\b"
)
_MASS = ("cup", "g", "oz", "mg", "mcg", "teaspoon", "tablespoon")
_IN_FOOD = re.compile(
    rf"\b(?:eat|eats|eating|ate|diets?|dietary|foods?|meals?|snacks?|servings?|drink(?:s|ing)?|{_NUTRIENT})\b"
)
_OF_MEDICINE = re.compile(
    r"\b(?:doses?|dosage|tablets?|capsules?|pills?|medicines?|drugs?|supplements?|inject\w*|infus\w*)\b"
)
_INTAKE = re.compile(r"\b(?:consume[ds]?|intake|nutrients?)\b")
_INHIBITING = re.compile(r"\b(?:ki|kd|km|ic ?50|ec ?50|ed ?50s?|affinity|affinities|potency)\b[^.;]{0,40}$")
_OF_BLOOD = re.compile(
    r"\b(?:plasma|serum|urin(?:e|ary)|blood|csf|cerebrospinal|tissue|levels?|peak|trough|cmax|steady|peripheral)\b"
    r"[^.;]{0,60}$"
)
_OF_VOLUME = re.compile(
    r"\b(?:volumes?|capacity|residual|urine|output|blood loss|stroke|effusion|cyst|haematoma|hematoma)\b"
)
_OF_URINE = re.compile(r"\b(?:[a-z]{4,}uria|excretion|excreted)\b")
_RUNNING = re.compile(
    r"\b(?:infus\w*|drips?|run|running|iv|i\.v\.|pumps?|fluids?|saline|dextrose|given?|giving|rates? of|oxygen|o2|nasal"
    r"|mask|cannulae?|prongs|cpap|concentrator|air|gas|nebuli\w*|bolus|bag|maintenance|set|start|feeds?|feeding"
    r"|perfused)\b"
)


def is_found(unit: str, before: str, plain: str, end: int) -> bool:
    """Whether an amount of this unit (in symbols of units.py) is no dose, by the words right beside it."""
    if _FLOW_UNIT.search(unit):
        return _is_flow(unit, before, plain, end)
    if "kcal" in unit or "1.73" in unit:
        return True
    if unit == "%" and _SOLUTION_AFTER.match(plain, end):
        return False
    if unit.endswith("/g") and _OF_BODY.search(plain, max(0, end - 16), end):
        return False
    if _LAB_UNIT.search(unit) and not _DOSED.search(unit):
        return True
    if unit in ("mg/mL", "mcg/mL", "mg/mcL") and _BLOOD_VALUE.search(before):
        return True
    if unit in ("g", "mg", "g/day", "mg/day", "mcg/day", "mmol", "mEq", "mmol/day", "mEq/day") and (
        _EXCRETED.search(before) or _LEVELS_BEFORE.search(before)
    ):
        return True
    if unit in ("g", "mg") and _ORGAN_WEIGHT.search(before):
        return True
    if unit.startswith(_MASS) and "/kg" not in unit and (_EATEN.search(before) or _EATEN_AFTER.match(plain, end)):
        return True
    if _PER_TISSUE.match(plain, end):
        return True
    if unit[:1] in "mLg" and "/kg" not in unit and _OUTPUT_AFTER.match(plain, end):
        return True
    return unit.startswith(("mL", "L")) and _OUTPUT.search(before) is not None


def is_food_or_level(unit: str, start: int, end: int, plain: str) -> bool:
    """Whether a clause that names no drug for an amount (in canonical units) speaks of food or of a level instead."""
    before = plain[max(0, start - 100) : start]
    if unit.startswith("mmol/mL"):
        return bool(_INHIBITING.search(before) or _OF_BLOOD.search(before))
    if unit == "mL":
        return bool(_OF_VOLUME.search(before)) and not _RUNNING.search(before)
    if not unit.startswith(_MASS):
        return False
    around = before + plain[end : end + 50]
    return not _OF_MEDICINE.search(around) and bool(_IN_FOOD.search(around) or _INTAKE.search(before))


def is_excreted(unit: str, start: int, plain: str) -> bool:
    """Whether the words before an amount (in canonical units) speak of what urine or stool holds."""
    return unit in ("mg", "mg/day", "mmol/day") and _OF_URINE.search(plain, max(0, start - 100), start) is not None


def _is_flow(unit: str, before: str, plain: str, end: int) -> bool:
    if _TISSUE.search(unit) or _FLOW.search(before) or _FLOW_AFTER.match(plain, end) or "1.73" in unit:
        return True
    if "/h" in unit:
        return False
    return _RUNNING.search(before + plain[end : end + 40]) is None
