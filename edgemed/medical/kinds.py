"""What the words around a number say of it: its comparator ("up to", "or more") and its kind.

Only the nearest words count: `before` is the 60 characters left of the number, at most.
"""

from __future__ import annotations

import re

from edgemed.medical.mentions import QuantityKind
from edgemed.medical.numbers import joined
from edgemed.medical.units import CALENDAR

BEFORE = 60
"""Characters left of a number that are looked at."""

_SIGNS = {
    ">=": (
        "> / =|> or =|>/=|a minimum of|at least|at or above|at or over|equal to or greater than|"
        "equal to or more than|from age|greater than or equal to|higher than or equal to|min.|minimally|"
        "minimum|minimum of|more than or equal to|no fewer than|no less than|not below|not fewer than|"
        "not less than|not under|upwards of"
    ),
    "<=": (
        "< / =|< or =|</=|as long as|as many as|as much as|at most|at or below|at or under|cap at|"
        "cap of|capped at|ceiling|ceiling of|equal to or less than|exceed|exceed a total of|"
        "exceed more than|exceeding|exceeds|fewer than or equal to|give more than|giving more than|"
        "go above|go over|have more than|less than or equal to|limit|limit it to|limit of|limit to|"
        "limited at|limited to|lower than or equal to|max|max.|maximal|maximum|maximum of|mx|"
        "by age|no greater than|no higher than|no longer than|no more than|no older than|not above|"
        "not exceeding|not greater than|not longer than|not more than|not over|take more than|up to|"
        "up to a max of|up to a maximum of|upper limit|upper limit of|upto|use more than|within"
    ),
    ">": (
        "above|beyond|bigger than|exceeded|greater than|heavier than|higher than|in excess of|"
        "larger than|later than|longer than|more than|older than|over|worse than"
    ),
    "<": (
        "below|better than|earlier than|fewer than|less than|lighter than|lower than|not yet|"
        "short of|shorter than|smaller than|under|younger than"
    ),
    "~": (
        "about|almost|an estimated|approx|approx.|approximately|around|c.|ca|ca.|circa|close to|"
        "estimated|in the region of|nearly|roughly|some"
    ),
}
_PHRASES = tuple((sign, tuple(f" {phrase}" for phrase in phrases.split("|"))) for sign, phrases in _SIGNS.items())
_SYMBOLS = {"<": "<", ">": ">", "≤": "<=", "≥": ">=", "~": "~", "≈": "~", "≦": "<=", "≧": ">=", "∼": "~"}
_NEVER_MORE = re.compile(
    r"\b(?:not|n't|never|without|cannot|avoid|to) (?:to )?(?:be )?(?:exceed|go over|go above|give|giving|take|use|have)"
    r"(?: more than| over| above| a total of| the)?$"
)
_MAXIMUM = re.compile(
    joined(
        r"""\b(?:max(?:imum|imal|\.)?|ceiling|upper limit|largest|highest|capped|cap|never exceed|limit)
        (?: ?[:=]| (?:total|single|daily|adult|safe|recommended|oral|iv|im|cumulative|lifetime|individual|initial
        |possible|allowed
        |per day|a day|each day|dose|doses|dosage|rate|volume|amount|limit|speed|is|was|of|be|at|to|the|a|in adults
        |in children))*
        ,? ?[:=]? ?$"""
    )
)
_FILLERS = re.compile(r"(?: (?:the|age|ages|aged|a|an|of|only|be|another|total|first|last|equal to)|,)$")
_AFTER_SIGN = re.compile(
    joined(
        r"""(?P<plus>\+(?! ?[\d/(]))
        |(?: old| of age|-old)?(?:,? ?(?:
        (?P<ge>(?:or|and|&) (?:more|older|above|over|greater|higher|longer|heavier|up|upwards?|onwards?|beyond)\b
        |or at least|plus\b(?! [a-z]))
        |(?P<le>(?:or|and) (?:less|younger|below|under|fewer|lower|shorter|lighter)\b)
        )|(?P<most> (?:maximum|max|at (?:the )?most|tops)\b(?!\.?:? ?(?:dose|rate|speed|daily|single|of|is|\d))))"""
    )
)
_INFUSED = re.compile(r"\b(?:made|make|diluted?|filled|topped|brought|made it) (?:it )?up to $")


_COUNTED_RATE = re.compile(r"\d|times|hours?$|x ")


def comparator_of(before: str, plain: str, end: int, kind: QuantityKind) -> str:
    """ "<", "<=", ">", ">=", "~" or "" for the number between `before` and `end`."""
    if kind is QuantityKind.FREQUENCY and plain[end - 1].isalpha() and not _COUNTED_RATE.search(plain, end - 24, end):
        return ""
    after = _AFTER_SIGN.match(plain, end)
    if after and not (after["plus"] and kind is QuantityKind.FREQUENCY):
        return "<=" if after["le"] or after["most"] else ">="
    tail = before.rstrip(" ([-\u2009").replace("(", " ")
    if not tail:
        return ""
    if tail.endswith(("->", "- >")):
        return ""  # an arrow
    if sign := _SYMBOLS.get(tail[-1]):
        return sign
    if tail.endswith(("<=", "=<", "< =")):
        return "<="
    if tail.endswith((">=", "=>", "> =")):
        return ">="
    if _MAXIMUM.search(before):
        return "<="
    tail = " " + tail.lstrip()
    for _ in range(5):
        if sign := _phrase_sign(tail, kind):
            return sign
        shorter = _FILLERS.sub("", tail)
        if shorter == tail:
            return ""
        tail = shorter
    return ""


def _phrase_sign(tail: str, kind: QuantityKind) -> str:
    for sign, phrases in _PHRASES:
        if not tail.endswith(phrases):
            continue
        if sign == ">" and tail.endswith(" over") and kind in (QuantityKind.DURATION, QuantityKind.TIME):
            return (
                sign if tail.endswith((" for over", " lasting over", " lasts over", " last over", " just over")) else ""
            )
        if sign == "<=" and _INFUSED.search(tail + " "):
            return ""
        if sign == "<=" and tail.endswith((" than", " over", " above", " exceed", " exceeds", " exceeding")):
            negated = re.search(r"\b(?:not|n't|never|no|nor|without|cannot|avoid|don't|dont|shouldn't)\b", tail[-40:])
            return sign if negated else ">"
        if sign in (">", "<") and tail.endswith((" than", " over", " above")) and _NEVER_MORE.search(tail):
            return "<="
        return sign
    return ""


_PERSON = joined(
    r"""(?:child(?:ren)?|infants?|bab(?:y|ies)|newborns?|neonates?|kids?|patients?|adults?|people|persons?|boys?
        |girls?|toddlers?
    |adolescents?|wom[ae]n|m[ae]n|males?|females?|teenagers?|teens|individuals|those|anyone|subjects|students|lady
    |gentleman
    |son|daughter|mother|father|smokers|pt|volunteers|she is|he is|she's|he's|i am|i'm|she was|he was|patient is
    |is now)"""
)
_COMPARING = joined(
    r"""(?:aged|ages|age|of|is|from|between|below|under|over|above|less than|more than|younger than|older than
        |at least|up to
    |about|around|are|was|were|who|who's|at|by|only|just|the|who are|over the age of|under the age of|<|>|≥|≤|=|and|or
    |[:,(])"""
)
_AGE_BEFORE = re.compile(
    rf"(?:\bage[ds]?\b(?:(?: |:|=)+{_COMPARING})*|\b{_PERSON}(?: {_COMPARING})*|\b(?:older|younger) than|\bturned"
    rf"|\bbirthday"
    rf"|\b(?:born|delivered|delivery|labou?r|gestation(?:al age)?|pregnan(?:t|cy)|preterm|ga"
    rf"|gestational|\bg\d ?p\d,?)(?: {_COMPARING})*"
    r"|\bdue (?:at|by)|\bfrom birth (?:to|until))[ (]*$"
)
_AGE_WORD_BEFORE = re.compile(
    rf"(?:\bage[ds]?\b(?:(?: |:|=)+{_COMPARING})*|\b(?:older|younger) than|\bturned"
    r"|\b(?:man|woman|lady|boy|girl|patient|gentleman|child|male|female|m|f) (?:of|aged)"
    r"|\b(?:girls|boys|children|infants) of|\b(?:children|adults|people|patients|those|women|men|kids|boys|girls|infants|anyone|persons|individuals|child)"
    r" (?:who are |aged )?(?:under|over|below|above|from|between|less than|more than|at least|up to)"
    r"|\b(?:she|he|i|who|mother|father|patient|mum|dad|son|daughter)(?:'s| is"
    r"|'m| am| was)(?: now| only| already| about)?"
    r"|\b(?:under|over)-|\bif (?:aged )?(?:under|over|below|above))[ (]*$"
)
OLD = re.compile(r"[ -]{0,3}(?:s )?(?:of age\b|- ?olds?\b|olds?\b|y ?/ ?o\b|o\b|of life\b)|[ -]?/ ?o\b|[ ]?- ?old\b")
_AGE_AFTER = re.compile(
    joined(
        r"""'?[ ,/-]{0,3}(?:(?:male|female|boy|girl|man|woman|lady|gentleman|infant|baby|kid|toddler|neonate|newborn)\b
        |child(?! ?birth)|patient\b|[mf](?=[,.)]| with| who|$)|pregnant|gestation|gestational|primi|preterm|(?:into
        |in) (?:her|the) pregnancy
        |of gestation|of pregnancy|pregnancy|fetus|foetus|amenorrh)"""
    )
)
_FOR_BEFORE = re.compile(
    joined(
        r"""(?:\b(?:for|x|during|over|lasting|lasted|lasts|last|course of|history of|h/o|duration|continue[ds]?|total
            |past|next|first
        |final|takes?|took|persist(?:s|ed|ing)?|since|survived?|wait(?:ed)?|every|another|additional|further|extra
        |spent?|run)|x ?/ ?)
        (?: ?:)?(?: (?:the|a|an|up to|at least|about|another|first|next|last|past|previous|total|of|more than
        |less than|over|only|around
        |minimum|maximum|approximately|no more than|not more than|at|nearly|almost|under|between|roughly|just|from
        |further))* ?[~<>≤≥]?=? ?$"""
    )
)
_FOR_NOW = re.compile(
    r"\b(?:for|survived?|lasting|lasted|lasts)(?: (?:more than|less than|at least|about|up to|over|only|another"
    r"|a further))* ?$"
)
_COURSE_AFTER = re.compile(
    r"[ -]{1,3}(?:course|history|duration|treatment|infusion|regimen|period|therapy|of (?:treatment|therapy|fever"
    r"|diarrh|cough)"
    r"|supply|trial|follow|survival|stay|study|urine|recall|cycle|half|long\b|interval)"
)
_TIME_AFTER = re.compile(
    r" ?(?:ago|apart|later|earlier|after|before|prior|post|from now|since|of (?:birth|opening|starting|delivery))\b"
)
_TIME_BEFORE = re.compile(
    r"\b(?:after|before|within|in|at|until|till|by|on|day|days|week|weeks|month|months|hour|hours|review|reviewed"
    r"|again|f/u|fu|rtc|return"
    r"|d|at (?:about|around)|after (?:at least|up to|more than|less than|over)|in (?:about|another|a further|the next|around)|after (?:about|another|the first)) ?$"
)
_SECONDS_OF = re.compile(
    r"\b(?:refill(?: time)?|crt|cap refill|a?ptt|pt|qtc?|interval|latency)[^a-z.;]*(?:(?:is|was|of|over) )?$"
)
_MEAN_AGE = re.compile(r"\b(?:mean|median|average) age\b[^.;]*$|\bage(?: range)?(?: ?[;:(,])? ?(?:range )?$")
_BABY_BEFORE = re.compile(r"\b(?:newborn|neonate|preterm|prem|premature|baby|primi\w*|g\d ?p\d)\b[^.;]{0,20}$")
_YEARS_GROUP = re.compile(r"[ -](?:age )?groups?\b")
_DOSE_FOR = re.compile(r"\d ?(?:mg|mcg|g|ml|tablets?|tabs?|puffs?|drops?) for $")
_GIVEN_IN = re.compile(
    r"(?:\d(?:\.\d+)? ?(?:ml|l|mg|g|ml/kg|mg/kg|%|kg|lb|units?)(?: of)?(?: [a-z'-]+){0,3} in"
    r"|\b(?:clotted|times|lost|gained|given|run|falls?|fell|rose) in) $"
)
_AFTER_COURSE = re.compile(r" of (?:[a-z-]+ ){0,2}(?:treatment|therapy|administration|exposure|infusion|use)\b")
_VACCINE_AT = re.compile(
    r"\bvaccin[a-z]+(?: [a-z]+){0,4} at [\d, ]*(?:and )?$|\b(?:fansidar|iptp?) (?:[a-z]+ )?at [\d, ]*(?:and )?$"
)
_WEIGHT_CUE = re.compile(
    r"\b(?:weigh(?:s|ed|ing|t|ts)?|wt|bodyweight|birth ?weight|bw|born|baby|newborn|infant|neonate|rats?|mice|mouse"
    r"|rabbits?)\b[^.;]{0,16}$"
)
_CHANGE = re.compile(
    r"\b(?:los[ts]|losing|loss|gain(?:s|ed|ing)?|shed|dropped|lifts?|lifting|carry|carrying)\b[^.;]{0,24}$"
)
_LAB_UNIT = re.compile(
    joined(
        r"""^(?:g|mg|mcg|ng|pg|mmol|mcmol|nmol|pmol|mEq|IU|mIU|mOsm|cell|copy|)/(?:dL|L|mcL)$|^g/mL$|^(?:ng|pg|mIU|mcg|IU
            |cell|copy)/mL$
        |^(?:g|mg|mcg)/100 mL$|^mg/(?:g|mmol|mol)$|^mmol/mol$|^mOsm/kg$|^(?:mmHg|cmH2O|°C|°F|degree|%|kPa|kcal|cm|mm|m
        |km|m2|cell|copy|lb|oz
        |inch|foot|kg)(?:/|$)
        |^(?:beat|breath)?/min$|m2$"""
    )
)
_DOSED = re.compile(r"^(?:mg|mcg|g|IU|MIU|mmol|mEq|mL|drop)/m2|^L/min$|^mg/kg|^(?:mg|mcg|g|IU)/m2")
_FLOW = re.compile(
    r"\b(?:e?gfr|clearance|crcl|ccr|creatinine|filtration|kidney function|renal function|peak flow|pefr?|urine|output"
    r"|clcr|cardiac output|co|ventilation|vo2|flow)\b[^.;]{0,40}$"
)
_OUTPUT = re.compile(
    joined(
        r"""\b(?:urine|urinary|uop|u/o|output|passed|drain(?:ed|age|s)?|blood loss|lost|loss|losing|bled|residual
            |volume|stroke|aspirate[d]?
        |capacity|pus|effusion|fluid removed|vomit(?:ed)?|bleeding|ebl|collected|haemorrhage|hemorrhage|excret(?:ed
        |ion|es)|contain(?:s|ed|ing))
        \b[^.;]{0,22}$"""
    )
)
_OUTPUT_AFTER = re.compile(
    r" (?:or more )?(?:of )?(?:[a-z]+ )?(?:urine|blood loss|pus|bleeding|drained|lost|clear fluid|albumin for|protein|fib(?:er|re)"
    r"|fat|sugars?|carbo\w*|sodium(?! (?:chloride|bicarb|valpro))|lactose|gluten|calories|alcohol|milk|salt)\b"
)
_SOLUTION_AFTER = re.compile(
    r" (?:w/v |aqueous |topical )?(?:solution|paint|cream|ointment|gel|lotion|eye|drops|shampoo|mouthwash|injection|spray"
    r"|paste)\b"
)
_EXCRETED = re.compile(r"\b(?:urin(?:e|ary)|proteinuria|protein|excretion|albuminuria)\b[^.;,]{0,18}$")
_EATEN = re.compile(
    r"\b(?:allowance|carbohydrates?|fib(?:er|re)|dietary|fat|protein|alcohol|sugars?|salt|calories|caffeine|sodium(?= (?:intake|to|\(salt|content|is|should|consumption))) "
    r"(?:(?:intake|for|is|are|of|to|at|the|a|about|carbohydrates?|consumption|content|should|be|each|only|\(salt\)|no|more|less|than) ){0,6}$"
)
_EATEN_AFTER = re.compile(
    r"(?: (?:of|cooked|raw|dried|fresh|low-fat|skim|whole))* (?:milk|water|juice|fruits?|vegetables|berries|beans|food|meat"
    r"|cheese|yogh?urt|nuts|rice|pasta|bread|caffeine|cereal|coffee|tea|beer|wine|lactose|urine|table salt|salt|sugar|honey|carbohydrates?)\b"
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
        |sfh|height|length|osmolality|phq-?9
        |epds|audit|nyha|pain|vas|size|diameter|velocity|ef|ejection fraction|values?|r2|odds|hazard|rr|ci|mean
        |median|sd|age|fold|stages?
        |class|level|meld|qtc|qrs|uric acid|neutrophils?|eosinophils?|lymphocytes|amylase|lipase|ammonia|cortisol
        |d-dimer)
        (?:(?: (?:count|level|rate|was|is|of|now|at|to|today|score|value|up|down|only|still|still at|from|came back
        |came back at|reading|stable|running|fell to
        |rose to|remains|about|around|over|under|above|below|more than|less than|greater than|equal to|or|between
        |on air|in air))| ?[:=<>≤≥~(-]| ,)* ?$"""
    )
)
_SCORED_AFTER = re.compile(
    r"[ -]{0,3}(?:fold\b|times (?:the|more|less|higher|lower|greater|normal|as|upper|u\.?l\.?n)|sd\b"
    r"|standard deviation|out of|point)"
)
_YEAR_BEFORE = re.compile(
    r"(?:\b(?:in|since|by|until|till|from|before|after|during|of|year|early|late|mid|between|and|to)|-|\(|,) ?$"
)
_DOSE_WORD = re.compile(r"\b(?:dose[ds]?|dosage|dosing|strength)(?: (?:of|is|was|to|at|:))* ?$")


def kind_of(unit: str, value: float, before: str, plain: str, end: int) -> QuantityKind:
    """The kind of a number with this unit (in symbols of units.py) from the words around it."""
    if not unit:
        return _bare_kind(value, before, plain, end)
    if unit in CALENDAR:
        return _calendar_kind(unit, value, before, plain, end)
    if unit.startswith(("/day", "/week", "/month", "/year")):
        return QuantityKind.FREQUENCY
    if unit == "kg":
        return QuantityKind.MEASURE if _CHANGE.search(before) else QuantityKind.WEIGHT
    if unit in ("g", "lb") and _WEIGHT_CUE.search(before) and not _CHANGE.search(before):
        return QuantityKind.WEIGHT
    is_counted = _COUNT_CUE.search(before) or _COUNT_AFTER.match(plain, end)
    if unit in ("tablet", "capsule", "dose", "vial", "ampoule", "sachet") and is_counted:
        return QuantityKind.COUNT
    return QuantityKind.MEASURE if _is_measure(unit, before, plain, end) else QuantityKind.DOSE


def _is_measure(unit: str, before: str, plain: str, end: int) -> bool:
    """Whether an amount of this unit is a value that was found and not one that is given."""
    if unit in ("mL/min", "L/min", "mL/h", "mL/kg/h"):
        return _FLOW.search(before) is not None
    if "kcal" in unit or "1.73" in unit:
        return True
    if unit == "%" and _SOLUTION_AFTER.match(plain, end):
        return False
    if _LAB_UNIT.search(unit) and not _DOSED.search(unit):
        return True
    if unit in ("mg/mL", "mcg/mL", "mg/mcL") and _MEASURED.search(before):
        return True
    if unit in ("g", "mg", "g/day", "mg/day") and _EXCRETED.search(before):
        return True
    if unit.startswith(("cup", "g", "oz", "mg", "teaspoon", "tablespoon")) and (
        _EATEN.search(before) or _EATEN_AFTER.match(plain, end)
    ):
        return True
    if unit[:1] in "mLg" and _OUTPUT_AFTER.match(plain, end):
        return True
    return unit.startswith(("mL", "L")) and _OUTPUT.search(before) is not None


def is_measured(before: str) -> bool:
    """Whether the name of something that has a value stands right before the number."""
    return _MEASURED.search(before) is not None


def _bare_kind(value: float, before: str, plain: str, end: int) -> QuantityKind:
    if _AGE_WORD_BEFORE.search(before) and value <= 120:
        return QuantityKind.AGE
    if _MEASURED.search(before) or _SCORED_AFTER.match(plain, end):
        return QuantityKind.MEASURE
    if value == int(value) and 1900 <= value <= 2100 and _YEAR_BEFORE.search(before):
        return QuantityKind.TIME
    return QuantityKind.DOSE if _DOSE_WORD.search(before) else QuantityKind.COUNT


def _calendar_kind(unit: str, value: float, before: str, plain: str, end: int) -> QuantityKind:
    short = unit in ("h", "min", "s")
    if OLD.match(plain, end) or (not short and _AGE_AFTER.match(plain, end)):
        return QuantityKind.AGE
    if unit == "s" and _SECONDS_OF.search(before):
        return QuantityKind.MEASURE
    if not short and _MEAN_AGE.search(before):
        return QuantityKind.AGE
    if unit == "week" and 20 <= value <= 44 and _BABY_BEFORE.search(before):
        return QuantityKind.AGE
    if unit == "year" and value < 18 and (_YEARS_GROUP.match(plain, end) or _DOSE_FOR.search(before)):
        return QuantityKind.AGE
    if _FOR_NOW.search(before):
        return QuantityKind.DURATION
    if _GIVEN_IN.search(before) or (_AFTER_COURSE.match(plain, end) and before.endswith("after ")):
        return QuantityKind.DURATION
    if unit in ("week", "month") and _VACCINE_AT.search(before):
        return QuantityKind.AGE
    if _TIME_AFTER.match(plain, end):
        return QuantityKind.TIME
    if not short and _AGE_BEFORE.search(before):
        return QuantityKind.AGE
    if _FOR_BEFORE.search(before) or _COURSE_AFTER.match(plain, end):
        return QuantityKind.DURATION
    if _TIME_BEFORE.search(before):
        return QuantityKind.TIME
    if before.endswith("longer than ") or plain.startswith((" or longer", " or more after"), end):
        return QuantityKind.DURATION
    if unit in ("year", "month") and (
        _AFTER_SIGN.match(plain, end) or comparator_of(before, plain, end, QuantityKind.AGE) in ("<", ">", "<=", ">=")
    ):
        return QuantityKind.AGE
    return QuantityKind.DURATION
