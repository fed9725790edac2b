"""Whether a number of hours, days or years is an age, a duration or a point in time, from the words around it."""

from __future__ import annotations

import re

from edgemed.medical.mentions import QuantityKind
from edgemed.medical.quantities.comparators import AFTER_SIGN, comparator_of
from edgemed.medical.quantities.numbers import joined

_PERSON = joined(
    r"""(?:child(?:ren)?|infants?|bab(?:y|ies)|newborns?|neonates?|kids?|patients?|adults?|people|persons?|boys?
        |girls?|toddlers?
    |adolescents?|wom[ae]n|m[ae]n|males?|females?|teenagers?|teens|individuals|those|anyone|subjects|students|lady
    |gentleman
    |son|daughter|mother|father|smokers|pt|volunteers|she is|he is|she's|he's|i am|i'm|she was|he was|patient is
    |is now)"""
)
COMPARING = joined(
    r"""(?:aged|ages|age|of|is|from|between|below|under|over|above|less than|more than|younger than|older than
        |at least|up to
    |about|around|are|was|were|who|who's|at|by|only|just|the|who are|over the age of|under the age of|<|>|≥|≤|=|and|or
    |[:,(])"""
)
_AGE_BEFORE = re.compile(
    rf"(?:\bage[ds]?\b(?:(?: |:|=)+{COMPARING})*|\b{_PERSON}(?: {COMPARING})*|\b(?:older|younger) than|\bturned"
    rf"|\bbirthday"
    rf"|\b(?:born|delivered|delivery|labou?r|gestation(?:al age)?|pregnan(?:t|cy)|preterm|ga"
    rf"|gestational|\bg\d ?p\d,?)(?: {COMPARING})*"
    r"|\bdue (?:at|by)|\bfrom birth (?:to|until))[ (]*$"
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
    r"\b(?:for|wait(?:ed|ing)?|survived?|lasting|lasted|lasts)(?: (?:more than|less than|at least|about|up to"
    r"|over|only|another"
    r"|a further))* ?$"
)
_COURSE_AFTER = re.compile(
    r"[ -]{1,3}(?:course|history|duration|treatment|infusion|regimen|period|therapy|of (?:treatment|therapy|fever"
    r"|diarrh|cough)"
    r"|supply|trial|follow|survival|stay|study|urine|recall|cycle|half|long\b|interval|off\b|rest\b|wash ?- ?out"
    r"|washout"
    r"|break\b|recovery)"
)
_INTERVALS = re.compile(r"[ -]{1,3}intervals\b")
_TIME_AFTER = re.compile(
    r"(?:,? (?:or|and|to) [\w.]+(?: - | |-)(?:h|hrs?|hours?|min|minutes?|days?|d|weeks?|wks?|months?|years?)\b)?"
    r"(?: \([a-z . ]{1,16}\))? ?(?:ago|apart|later|earlier|after|before|following|prior|post|from now|since|of (?:birth"
    r"|opening|starting|delivery))\b"
)
_TIME_BEFORE = re.compile(
    r"\b(?:after|before|within|in|at|until|till|by|on|(?<!the )following|day|days|week|weeks|month|months|hour"
    r"|hours|review|reviewed"
    r"|again|f/u|fu|rtc|return"
    r"|d|at (?:about|around)|after (?:at least|up to|more than|less than|over)|in (?:about|another|a further"
    r"|the next|around)|after (?:about|another|the first)) ?$"
)
_SECONDS_OF = re.compile(
    r"\b(?:refill(?: time)?|crt|cap refill|a?ptt|pt|qtc?|interval|latency)[^a-z.;]*(?:(?:is|was|of|over) )?$"
)
_MEAN_AGE = re.compile(r"\b(?:mean|median|average) age\b[^.;]*$|\bage(?: range)?(?: ?[;:(,])? ?(?:range )?$")
_BABY_BEFORE = re.compile(r"\b(?:newborn|neonate|preterm|prem|premature|baby|primi\w*|g\d ?p\d)\b[^.;]{0,20}$")
_OF_TIME = re.compile(r"\b(?:duration|survival|interval|follow ?- ?up|time|period|treated|treatment)\b")
_OF_TRAINING = re.compile(
    r" of (?:[a-z]+ )?(?:[a-z]+ )?(?:college|school|education|training|experience|treatment|therapy|follow"
    r"|symptoms|trying)"
)
_WEIGHED_BEFORE = re.compile(r"[\d.] ?k?g(?: (?:body weight|in weight))? ?(?:,|and|;) $")
"""Of "(30 - 35 g, 6 - 8 wk)"."""
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


def calendar_kind(unit: str, value: float, before: str, plain: str, end: int) -> QuantityKind:
    """An age, a duration, a time, a measured interval of seconds, or "1-minute intervals"."""
    if _INTERVALS.match(plain, end):
        return QuantityKind.FREQUENCY
    return _time_kind(unit, value, before, plain, end)


def _time_kind(unit: str, value: float, before: str, plain: str, end: int) -> QuantityKind:
    short = unit in ("h", "min", "s")
    if unit == "s" and _SECONDS_OF.search(before):
        return QuantityKind.MEASURE
    if _is_age_in_context(unit, value, before, plain, end):
        return QuantityKind.AGE
    if OLD.match(plain, end) or (not short and _AGE_AFTER.match(plain, end)):
        return QuantityKind.AGE
    if _FOR_NOW.search(before):
        return QuantityKind.DURATION
    if _GIVEN_IN.search(before) or (_AFTER_COURSE.match(plain, end) and before.endswith("after ")):
        return QuantityKind.DURATION
    if _TIME_AFTER.match(plain, end):
        return QuantityKind.TIME
    if not short and _AGE_BEFORE.search(before) and not _OF_TIME.search(before):
        return QuantityKind.AGE
    if _FOR_BEFORE.search(before) or _COURSE_AFTER.match(plain, end):
        return QuantityKind.DURATION
    if _TIME_BEFORE.search(before):
        return QuantityKind.TIME
    if before.endswith("longer than ") or plain.startswith((" or longer", " or more after"), end):
        return QuantityKind.DURATION
    if (
        unit in ("year", "month")
        and not _OF_TRAINING.match(plain, end)
        and (
            AFTER_SIGN.match(plain, end)
            or comparator_of(before, plain, end, QuantityKind.AGE) in ("<", ">", "<=", ">=")
        )
    ):
        return QuantityKind.AGE
    return QuantityKind.DURATION


def _is_age_in_context(unit: str, value: float, before: str, plain: str, end: int) -> bool:
    """Whether a text about a mean age, a newborn, a vaccine or a group of years means an age."""
    if unit in ("h", "min", "s"):
        return False
    if _MEAN_AGE.search(before):
        return True
    if _WEIGHED_BEFORE.search(before):
        return True
    if unit == "week" and 20 <= value <= 44 and _BABY_BEFORE.search(before):
        return True
    if unit == "year" and value < 18 and (_YEARS_GROUP.match(plain, end) or _DOSE_FOR.search(before)):
        return True
    return unit in ("week", "month") and _VACCINE_AT.search(before) is not None
