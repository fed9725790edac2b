"""Numbers with a form of their own: 120/80, 1:1000, "1 in 4", 5/7, 45M, 34+2 weeks, "in her sixties"."""

from __future__ import annotations

import re
from fractions import Fraction

from edgemed.medical.mentions import QuantityKind
from edgemed.medical.quantities.amounts import Amount
from edgemed.medical.quantities.numbers import NUMBER, TENS, joined, value_of
from edgemed.medical.quantities.unit_chains import CHAIN

_COURSE = re.compile(
    r"(?!24/7)(?P<n>\d{1,2})(?: ?- ?(?P<high>\d{1,2}))? ?/ ?(?P<of>7|52|12)(?![\d/]|\.\d)(?! ?(?:mm|mg|ml|mcg|g)\b)"
)
_COURSE_UNIT = {"7": ("day", 1), "52": ("day", 7), "12": ("month", 1)}
_COURSE_BEFORE = re.compile(
    r"(?:\bx|\bfor|\bin|\bat|\bby|\buntil|\btill|\breview|f/u|\bfu|\bover|\blast|\bpast|\bafter|\bagain|\brtc"
    r"|\bevery|\bage[d]?|\bage of|;"
    r"|,) ?:?$"
)
_COURSE_AFTER = re.compile(
    r" ?(?:ago|old|hx|h/o|history|of |later|course|supply|baby|infant|boy|girl|male|female|m\b|f\b)"
)
_COURSE_TIME = re.compile(
    r"\b(?:in|at|by|until|till|review(?:ed)?|rv|fu|f/u|after|again|return|rtc|see|back|recheck|repeat"
    r"|tca)\b[ :a-z]{0,8}$"
)
_OF_24 = re.compile(r"(?P<n>[12468]|12) ?/ ?24(?![\d/.])")
_FORM_BEFORE = re.compile(r"(?:\d ?(?:mg|m?cg|g|ml|units|iu)|\b(?:tabs?|tablets?|caps|puffs?|iv|po|im|sc|every|q)) ?$")
_PRESSURE = re.compile(
    joined(
        r"""(?P<high>\d{2,3})(?: ?- ?\d{2,3})? ?(?:/| over ) ?(?P<low>\d{2,3})(?: ?- ?\d{2,3})?(?![\d/]
            |[.,]\d)(?: ?mm ?hg)?
        (?! ?(?:m?g|mcg|g|ml|iu|µg|ug|tab|units?|years|days|weeks)\b)"""
    )
)
_PRESSURE_BEFORE = re.compile(r"\b(?:b\.?p\.?|blood pressure|pressures?|pressure (?:is|was|of))[^.;\d]{0,20}$")
_CASES = re.compile(r" (?:patients|subjects|cases|animals|rats|mice|eyes|infants|participants|volunteers)\b")
_RATIO = re.compile(
    joined(
        rf"""(?P<one>\d+(?:\.\d+)?)(?: : |:(?: (?=1[0, ]*00))?)(?P<two>\d{{1,3}}(?:[, ]\d{{3}})+|\d+)(?![\d:])
        |(?P<first>{NUMBER})(?: in (?:every )?| out of (?:every |each )?(?:the )?)
        (?P<second>{NUMBER})(?! ?(?:{CHAIN}|hours|days|weeks|months|years|(?:days|of) ))(?=\W|$)(?!-)
        |(?P<cases>{NUMBER})(?: (?:per|in) (?:each )?| ?/ ?)(?P<people>10{{0,2}} ?, ?000(?: ?, ?000)?
        |1[, ]?0{{2,3}}(?:[, ]?000)?
        |(?:1|one|a) ?million|(?:a|one) hundred thousand)\b(?! ?(?:{CHAIN}))"""
    )
)
_SCORE = re.compile(r"(?P<one>\d{1,3}) ?/ ?(?P<two>\d{1,3})(?![\d/]|[.,]\d)")
_UNIT_AFTER = re.compile(rf"[ -]?{CHAIN}")
_FRACTION_USE = re.compile(rf"[ -]?(?:of|an?|the|{CHAIN})\b|[ -]?(?:strength|normal|saline)|-|\d| to | or ")
_AGE_SHORT = re.compile(
    joined(
        r"""(?P<n>\d{1,3})(?: ?- ?| )?(?:
        (?P<unit>y|m|w|d|yr|yrs|mo|mth|wk)\.?[ /]?o\b\.?
        |(?P<sex>f|m)(?=[ ,;.)/]|$)
        |/ ?[fm]\b(?!/)
        )"""
    )
)
_PERSON_BEFORE = re.compile(r"(?:^|[,(:;\n-]|\ba|\bpt|\bpatient|\bthis|\ban|\bfor a|\. ) ?$")
_AFTER_SEX = re.compile(r"(?:^|[^a-z/])[mf] ?/ ?$|(?:^|[,(] ?)[mf],? ?$")
_PERSON_COMMA = re.compile(r"\b(?:man|woman|boy|girl|male|female|lady|gentleman|patient|farmer|teacher|mother), $")
_AGE_UNIT = {"y": 12, "yr": 12, "yrs": 12, "m": 1, "mo": 1, "mth": 1, "w": 7, "wk": 7, "d": 1}
_GESTATION = re.compile(
    r"(?P<n>[1-4]\d)(?: ?\+ ?(?P<days>[0-6])(?!\d))?(?P<weeks> ?/ ?40(?!\d)|(?<=\+\d) ?(?:weeks?|wks?|w)\b)?"
)
_AGES = re.compile(r"(?P<n>\d{1,3})'?s\b")
_DECADE_BEFORE = re.compile(
    r"\b(?:his|her|their|your|my|our|the|in|early|mid|late|to|and|or)[ -]?(?:early|mid|late)?[ -]?$"
)
_GROUP_BEFORE = re.compile(r"\b(?:under|over|above|below)[ -]$")
_DECADE = rf"(?:{'|'.join(ten[:-1] for ten in TENS)})ies"
_DECADES = re.compile(rf"(?P<low>{_DECADE})(?: (?:or|to|and|through) (?P<high>{_DECADE}))?")
_AND_A_HALF = re.compile(r"an? (?P<unit>hour|day|week|month|year) and (?:a )?half\b")
_NEGATIVE_BEFORE = re.compile(
    r"\b(?:z-?scores?|score|sd|excess|be|whz|waz|haz|wfh|wfa|wfl|temperature|at|of|is|below|than|to|was|under"
    r") ?-$|[<>=:,(] ?-$"
)
_SPACED_MINUS = re.compile(r"[\[(<>=,] ?- $|\[-$|(?:^| )(?:and|to|versus|vs|or|by|of|was|were|is|than|minus) - $")
_NEGATIVE_AFTER = re.compile(r" ?(?:sds?\b|s\.d\.?|z\b|z-?score|standard deviation)")


def special_at(plain: str, start: int, before: str, *, after_drug: bool) -> Amount | None:
    """A course, blood pressure, ratio or short age that begins with the digits at this place."""
    if (age := _gestation(plain, start) or _age(plain, start, before)) is not None:
        return age
    if (match := _OF_24.match(plain, start)) and _FORM_BEFORE.search(before):
        minutes = Fraction(60 * int(match["n"]))
        return Amount(QuantityKind.FREQUENCY, minutes, minutes, "min", start, match.end())
    if (match := _COURSE.match(plain, start)) and (course := _course(plain, match, before)):
        return course
    if (match := _PRESSURE.match(plain, start)) and not after_drug:
        high, low = int(match["high"]), int(match["low"])
        named = _PRESSURE_BEFORE.search(before)
        if (named and low < high) or (70 <= high <= 280 and 30 <= low <= 160 and high - low >= 10):
            return _measure(Fraction(high), Fraction(low), "mmHg", start, match.end())
    if match := _RATIO.match(plain, start):
        return _ratio(match, start)
    if not after_drug and (match := _SCORE.match(plain, start)):
        one, two = int(match["one"]), int(match["two"])
        is_fraction = one < two <= 10 and (two <= 4 or _FRACTION_USE.match(plain, match.end()))
        if not is_fraction and two and not _UNIT_AFTER.match(plain, match.end()):
            return _measure(Fraction(one), Fraction(two), "ratio", start, match.end())
    return None


def word_ratio_at(plain: str, start: int) -> Amount | None:
    """ "one in four"."""
    match = _RATIO.match(plain, start)
    return _ratio(match, start) if match else None


def and_a_half_at(plain: str, start: int) -> tuple[str, int] | None:
    """The unit and the end of "an hour and a half"."""
    match = _AND_A_HALF.match(plain, start)
    return (match["unit"], match.end()) if match else None


def decade_at(plain: str, start: int) -> Amount | None:
    """ "fifties or sixties" as an age of 50 to 69 years."""
    match = _DECADES.match(plain, start)
    if match is None:
        return None
    low = TENS[match["low"][:-3] + "y"]
    high = TENS[match["high"][:-3] + "y"] if match["high"] else low
    return _age_amount(low, high + 9, 12, start, match.end())


def is_negative(plain: str, before: str, unit: str, end: int) -> bool:
    """Whether the dash before a number is a minus sign."""
    if _SPACED_MINUS.search(before):
        return True
    if not before.endswith("-") or (len(before) > 1 and before[-2] not in " ([<>=:"):
        return False
    return unit in ("°C", "°F") or bool(_NEGATIVE_AFTER.match(plain, end) or _NEGATIVE_BEFORE.search(before))


def _measure(low: Fraction, high: Fraction, unit: str, start: int, end: int) -> Amount:
    return Amount(QuantityKind.MEASURE, low, high, unit, start, end)


def _age_amount(low: int, high: int, months: int, start: int, end: int) -> Amount:
    return Amount(QuantityKind.AGE, Fraction(low * months), Fraction(high * months), "month", start, end)


def _age(plain: str, start: int, before: str) -> Amount | None:
    if match := _AGES.match(plain, start):
        years = int(match["n"])
        if _GROUP_BEFORE.search(before):
            return _age_amount(years, years, 12, start, match.end())
        if years % 10 == 0 and 20 <= years <= 90 and _DECADE_BEFORE.search(before):
            return _age_amount(years, years + 9, 12, start, match.end())
        return None
    if _PERSON_COMMA.search(before) and (match := re.compile(r"\d{1,3}(?=[,;)]| with| on\b|$)").match(plain, start)):
        return _age_amount(int(match[0]), int(match[0]), 12, start, match.end())
    if _AFTER_SEX.search(before) and (match := re.compile(r"\d{1,3}(?![\d.,/:]\d|/|:| ?[a-z%])").match(plain, start)):
        return _age_amount(int(match[0]), int(match[0]), 12, start, match.end())
    match = _AGE_SHORT.match(plain, start)
    if match is None:
        return None
    value = int(match["n"])
    if match["unit"]:
        unit = "day" if match["unit"][0] in "wd" else "month"
        size = Fraction(value * _AGE_UNIT[match["unit"]])
        return Amount(QuantityKind.AGE, size, size, unit, start, match.end())
    if match["sex"] and (not _PERSON_BEFORE.search(before) or value > 115 or (match["sex"] == "m" and value < 13)):
        return None
    return _age_amount(value, value, 12, start, match.end("n"))


def _gestation(plain: str, start: int) -> Amount | None:
    """ "34+2 weeks", "39 + 4", "GA 36/40": weeks and days of pregnancy."""
    match = _GESTATION.match(plain, start)
    if match is None or not (match["weeks"] or match["days"]):
        return None
    days = Fraction(7 * int(match["n"]) + int(match["days"] or 0))
    return Amount(QuantityKind.AGE, days, days, "day", start, match.end())


def _course(plain: str, match: re.Match[str], before: str) -> Amount | None:
    after = _COURSE_AFTER.match(plain, match.end())
    if match["of"] == "12" and not after and not _COURSE_BEFORE.search(before):
        return None
    unit, size = _COURSE_UNIT[match["of"]]
    value, high = Fraction(int(match["n"]) * size), Fraction(int(match["high"] or match["n"]) * size)
    kind, end = QuantityKind.DURATION, match.end()
    if after and after[0].strip() in ("old", "baby", "infant", "boy", "girl", "male", "female", "m", "f"):
        kind, end = QuantityKind.AGE, after.end() if after[0].strip() == "old" else end
    elif (after and after[0].strip() in ("ago", "later")) or _COURSE_TIME.search(before):
        kind = QuantityKind.TIME
    return Amount(kind, value, high, unit, match.start(), end)


def _ratio(match: re.Match[str], start: int) -> Amount | None:
    one, two = next(
        (match[a], match[b]) for a, b in (("one", "two"), ("first", "second"), ("cases", "people")) if match[a]
    )
    if len(one) + len(two) > 24:
        return None
    low = value_of(one)
    high = value_of(two.replace(" ", "").replace("1million", "1000000") if two[0].isdigit() else two)
    if (
        low is None
        or high is None
        or (match["first"] and (high <= low or low.denominator != 1 or 1900 <= high <= 2100))
    ):
        return None
    if low > 1 and high not in (10, 100, 1000) and "out of" in match[0] and _CASES.match(match.string, match.end()):
        return None  # "14 out of 16 patients": two counts
    return _measure(low, high, "ratio", start, match.end())
