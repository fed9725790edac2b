"""What the words around a number say of its kind: a dose, a measure, a count, an age.

Only the nearest words count, as in comparators.py.
"""

from __future__ import annotations

import re

from edgemed.medical.mentions import QuantityKind
from edgemed.medical.quantities.found_values import is_found
from edgemed.medical.quantities.numbers import joined
from edgemed.medical.quantities.time_kinds import COMPARING, calendar_kind
from edgemed.medical.quantities.units import CALENDAR

_AGE_WORD_BEFORE = re.compile(
    rf"(?:\bage[ds]?\b(?:(?: |:|=)+{COMPARING})*|\b(?:older|younger) than|\bturned"
    r"|\b(?:man|woman|lady|boy|girl|patient|gentleman|child|male|female|m|f) (?:of|aged)"
    r"|\b(?:girls|boys|children|infants) of|\b(?:children|adults|people|patients|those|women|men|kids|boys|girls"
    r"|infants|anyone|persons|individuals|child)"
    r" (?:who are |aged )?(?:under|over|below|above|from|between|less than|more than|at least|up to)"
    r"|\b(?:she|he|i|who|mother|father|patient|mum|dad|son|daughter)(?:'s| is"
    r"|'m| am| was)(?: now| only| already| about)?"
    r"|\b(?:under|over)-|\bif (?:aged )?(?:under|over|below|above))[ (]*$"
)
_WEIGHT_CUE = re.compile(
    r"\b(?:rat|mouse|mice|animal|body) (?:size|weight)\b[^.;]{0,40}$|\b(?:weigh(?:s|ed|ing|t|ts)?|wt|bodyweight"
    r"|birth ?weight|bw|born|baby|newborn|infant|neonate|rats?|mice|mouse"
    r"|rabbits?)\b[^.;]{0,16}$"
)
_CHANGE = re.compile(
    r"\b(?:los[ts]|losing|loss|gain(?:s|ed|ing)?|shed|dropped|lifts?|lifting|carry|carrying)\b[^.;]{0,24}$"
)
_COUNT_CUE = re.compile(
    r"\b(?:miss(?:ed|es|ing)?|dispens(?:e|ed)|supply|supplied|left|forgot(?:ten)?|skipped|bottle of|pack of"
    r"|stock)\b[^.;]{0,18}$"
)
_COUNT_AFTER = re.compile(
    r" (?:(?:of [a-z-]+(?: \d+(?:\.\d+)? ?m?c?g)? )?(?:were |was |are )?(?:dispensed|in stock|left|remaining"
    r"|prescribed|missed"
    r"|in a pack)\b)"
)
_MEASURED = re.compile(
    joined(
        r"""\b(?:bp|fever|blood pressure|systolic|diastolic|sbp|dbp|map|pulse|pr|hr|heart rate|rr|resp(?:iratory
            |iration|s)?(?: rate)?|breathing|spo2|sao2
        |sats?|saturation|o2 sats?|temp(?:erature)?|t|gcs|apgars?|inr|scores?|ph|z-?scores?|grades?|p|ratio|rates?
        |level|count|index|bmi
        |titers?|titres?|glucose|sugar|rbs|fbs|rbg|fbg|bsl|bgl|bm|creatinine|creat|cr|urea|bun|hb|hgb|ha?emoglobin|hba1c
        |a1c|hct|pcv|ha?ematocrit
        |wbc|wcc|white (?:blood )?cells?|platelets?|plts?|plt|crp|esr|alt|ast|alp|ggt|bilirubin|bili|albumin|sodium
        |na\+?|potassium|k\+?|calcium
        |magnesium|phosphate|lactate|tsh|t4|t3|ft4|ft3|psa|ck|troponin|ferritin|cd4(?: count)?|viral load|vl|anc|fev1
        |pef|muac|egfr|gfr|crcl|fio2|paco2
        |pao2|pco2|po2|hco3|bicarbonate|bicarb|base excess|be|cholesterol|ldl|hdl|triglycerides|fh|scored|fhr
        |fundal height
        |sfh|height|length|aucs?|osmolality|phq-?9
        |epds|audit|nyha|pain|vas|size|diameter|velocity|ef|ejection fraction|values?|r2|odds|hazard
        |relative risk|rr|ci|mean
        |median|sd|age|fold|stages?
        |class|level|meld|qtc|qrs|uric acid|neutrophils?|eosinophils?|lymphocytes|amylase|lipase|ammonia|cortisol
        |d-dimer)
        (?:(?: (?:count|level|rate|was|is|of|now|at|to|today|score|value|up|down|only|still|still at|from|came back
        |came back at|reading|stable|running|fell to
        |rose to|remains|about|around|over|under|above|below|more than|less than|greater than|equal to|or|between
        |on air|in air|can range from|may range from|ranges from|ranged from|in the range of|range of
        |ranging from|range))| ?[:=<>≤≥~()-]| ,)* ?$"""
    )
)
_SCORED_AFTER = re.compile(
    r"[ -]{0,3}(?:fold\b|times (?:the|more|less|higher|lower|greater|normal|as|upper|u\.?l\.?n)|sd\b"
    r"|standard deviation|m?hz\b|k?v\b|khz\b|k?da\b|k?daltons?\b|c?gy\b|rads?\b|mv\b|db\b|rpm\b|ppm\b|watts?\b"
    r"|joules?\b"
    r"|mets\b|gauge\b|out of(?! \d+ (?:patients|subjects|cases|animals|rats|mice|eyes|infants|participants"
    r"|volunteers))|point)"
)
_YEAR_BEFORE = re.compile(
    r"(?:\b(?:in|since|by|until|till|from|before|after|during|of|year|early|late|mid|between|and|to)|-|\(|,) ?$"
)
_OR_OLDER = re.compile(r" (?:or|and) (?:older|younger)\b")
_MEAN_AGE_IS = re.compile(
    r"\b(?:mean|median|average) age\b[^.;\d]*\b(?:is|was|of|were)(?: about| around| approximately)? $"
)
_CITED_BEFORE = re.compile(r"\b[a-z]{3,}\.? $|\"$")
_CITED_AFTER = re.compile(r" ?[)\].;,:]| (?:[a-z]+ ){1,3}(?:guidelines?|report|study|edition|census|survey)")
"""Of "(Smith 1968)" and "2008 Guidelines"."""
_DOSE_WORD = re.compile(r"\b(?:dose[ds]?|dosage|dosing|strength)(?: (?:of|is|was|to|at|:))* ?$")


def kind_of(unit: str, value: float, before: str, plain: str, end: int) -> QuantityKind:
    """The kind of a number with this unit (in symbols of units.py) from the words around it."""
    if not unit:
        return _bare_kind(value, before, plain, end)
    if unit in CALENDAR:
        return calendar_kind(unit, value, before, plain, end)
    if unit.startswith(("/day", "/week", "/month", "/year")):
        return QuantityKind.FREQUENCY
    if unit == "copy":
        return QuantityKind.COUNT
    if unit == "kg":
        return QuantityKind.MEASURE if _CHANGE.search(before) else QuantityKind.WEIGHT
    if unit in ("g", "lb") and _WEIGHT_CUE.search(before) and not _CHANGE.search(before):
        return QuantityKind.WEIGHT
    is_counted = _COUNT_CUE.search(before) or _COUNT_AFTER.match(plain, end)
    if unit in ("tablet", "capsule", "dose", "vial", "ampoule", "sachet") and is_counted:
        return QuantityKind.COUNT
    return QuantityKind.MEASURE if is_found(unit, before, plain, end) else QuantityKind.DOSE


def _is_year(before: str, plain: str, end: int) -> bool:
    if _YEAR_BEFORE.search(before):
        return True
    return (
        plain[end - 5 : end - 4] in ('"', " ")
        and _CITED_BEFORE.search(before) is not None
        and bool(_CITED_AFTER.match(plain, end))
    )


def is_measured(before: str) -> bool:
    """Whether the name of something that has a value stands right before the number."""
    return _MEASURED.search(before) is not None


def _bare_kind(value: float, before: str, plain: str, end: int) -> QuantityKind:
    if (_AGE_WORD_BEFORE.search(before) or _MEAN_AGE_IS.search(before)) and value <= 120:
        return QuantityKind.AGE
    if value <= 120 and _OR_OLDER.match(plain, end):
        return QuantityKind.AGE
    if _MEASURED.search(before) or _SCORED_AFTER.match(plain, end):
        return QuantityKind.MEASURE
    if value == int(value) and 1900 <= value <= 2100 and _is_year(before, plain, end):
        return QuantityKind.TIME
    return QuantityKind.DOSE if _DOSE_WORD.search(before) else QuantityKind.COUNT
