"""How often: "three times a day", "every 4 to 6 hours", "q8h", "6-hourly", "tds", "1-0-1".

A rate is a number "/day" (or "/week" ...), an interval a number of hours, days ... .
"""

from __future__ import annotations

import re
from fractions import Fraction

from edgemed.medical.mentions import QuantityKind
from edgemed.medical.quantities.amounts import Amount
from edgemed.medical.quantities.numbers import NUMBER, joined, value_of
from edgemed.medical.quantities.units import CALENDAR, SYMBOL_OF, canonical

_JOIN = r"(?: ?- ?| to | or | and |-to-|-or-|/)"
_RANGE = rf"(?P<low>{NUMBER})(?:{_JOIN}(?P<high>{NUMBER}))?"

_PERIODS = {
    "day": (
        "24 hours|24 hrs|24 h|24h|24-hour period|24-hour cycle|24-hour day|days|day|daily|dly|nightly|nights"
        "|night|mornings|morning|evenings|evening|bedtime|d"
    ),
    "week": "weekly|wkly|weeks|week|wk",
    "month": "monthly|mthly|months|month",
    "year": "yearly|annually|years|year",
    "h": "hourly|hours|hour|hr",
    "min": "minutes|minute|min",
    "fortnight": "fortnightly|fortnight",
}
_PERIOD_OF = {word: period for period, words in _PERIODS.items() for word in words.split("|")}
_PERIOD = "(?:" + "|".join(sorted(_PERIOD_OF, key=len, reverse=True)) + r")\b"
_PER = r"(?: ?/ ?| ?an? | ?per | ?each | ?every | in an? | in | in each | over | ?- ?a ?- ?| ?- ?| )?"

_TIMES = re.compile(rf"{_RANGE}(?: ?- ?| )?(?:x\b|x(?= ?/)|times?\b){_PER}(?P<period>{_PERIOD})")
_DAYS_IN = re.compile(
    rf"{_RANGE} (?:days?|nights?)(?: ?/ ?| a | per | each | every | out of the )(?P<period>week|month|year)\b"
)
_TIMES_COUNTED = re.compile(rf"{_RANGE} ?(?P<period>daily|weekly|monthly|a day|per day|/ ?day|/ ?d\b|/ ?week|/ ?wk)\b")
_ONCE_VALUES = {"once": 1, "twice": 2, "thrice": 3} | {
    f"{word} time{plural}": value
    for value, word in enumerate(("one", "two", "three", "four"), 1)
    for plural in ("", "s")
}
_ONCE_WORD = r"once|twice|thrice|(?:one|two|three|four) times?"
_ONCE = re.compile(
    rf"(?P<word>{_ONCE_WORD})(?:,? (?:or|to) (?P<more>{_ONCE_WORD}))?(?:{_PER}(?P<period>{_PERIOD})|(?P<alone>))"
)
_ONCE_EVERY = re.compile(
    r"(?:once|one dose|a dose) (?=(?:every|each) (?:\d|[a-z]+ (?:hour|day|week|month|year)|other|second))"
)
_STEP = r"(?P<other>(?:other|alternate|second|2nd|third|3rd|fourth|4th) )?"
_INTERVAL_UNIT = joined(
    r"""(?:hourly|hours?|hrly|hrs?|hly|h|minutes?|mins?|min|days?|d|nights?|weeks?|wks?|wk|weekly|months?|monthly|mo
    |years?|yrs?|seconds?|secs?|mornings?|evenings?|bedtime|fortnight)(?![a-z0-9])"""
)
_EVERY = re.compile(rf"(?:every|each) (?:{_RANGE}(?: ?- ?| )?)?{_STEP}(?P<unit>{_INTERVAL_UNIT})")
_EVERY_Q = re.compile(rf"q\.? ?(?:(?P<low>\d+)(?:{_JOIN}(?P<high>\d+))?\.?[ -]?)?{_STEP}(?P<unit>{_INTERVAL_UNIT})")
_Q_HOURS = re.compile(r"q ?(?P<low>[1-9]\d?)(?: ?- ?(?P<high>\d{1,2}))?(?![\w.]|-\w)")
_Q_OTHER = re.compile(r"q ?(?P<when>am|pm|hs|day|daily)\b|q\.h\.s\.?")
_ONCE_IN = re.compile(rf"once (?:in|per) (?:every )?{_RANGE}(?: ?- ?| )?(?P<unit>{_INTERVAL_UNIT})")
_STEPS = {"other": 2, "alternate": 2, "second": 2, "2nd": 2, "third": 3, "3rd": 3, "fourth": 4, "4th": 4}
_ALTERNATE = re.compile(
    r"(?:alternate|alternating) (?:days?|nights?|d)\b|eod\b|qod\b|q ?\. ?o ?\. ?d\b\.?|e\.o\.d\b\.?"
)
_HOURLY = re.compile(rf"{_RANGE}(?: ?- ?| )?(?P<unit>hourly|hrly|hly|weekly|monthly|yearly|minutely)\b")
_WEEKLY_UNIT = {"hourly": "h", "hrly": "h", "hly": "h", "minutely": "min"} | {
    "weekly": "week", "monthly": "month", "yearly": "year", "daily": "day",
}  # fmt: skip
_PER_DAY = re.compile(r"(?:per|a) (?P<period>day|night|week|month)\b")
_AMOUNT_OF = re.compile(
    r"(?:\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|twelve|once|twice|times?"
    r"|half))\b[^.;:()\d]{0,40} $|\d ?[a-z]+ ?\) $"
)
_NO_RATE_BEFORE = re.compile(
    r"\b(?:for|in|on|within|after|before|once|is|was|be|such|of|had|have|what|over|at|every|to|or|and|by|than|as|with"
    r"|until|take[ns]?|taking|half|hours?|minutes?|h|min|several times|few times|many times) $"
)
"""Before a "per day" that stands apart from its amount: "1,000 mg of calcium a day"."""
_POINT_AFTER = re.compile(r" (?:after|before|later|earlier|ago|or (?:two|so)|when|and a half|prior|off)\b")
_ALONE = re.compile(
    r"(?:daily(?! (?:values?\b|living\b|life\b|lives\b|activit|routine|work|tasks|function|need))"
    r"|nightly|weekly|wkly|dly|mthly|fortnightly|monthly"
    r"|yearly"
    r"|annually|hourly|half[- ]hourly)\b"
)
_ABBREVIATED = re.compile(
    joined(
        r"""(?:(?P<three>tid|tds|t ?\. ?i ?\. ?d|t ?\. ?d ?\. ?s|td)
        |(?P<four>qid|qds|q ?\. ?i ?\. ?d|q ?\. ?d ?\. ?s)
        |(?P<two>bid|bds?|b ?\. ?i ?\. ?d|b ?\. ?d)
        |(?P<one>qd|od|qhs|q ?\. ?d|o ?\. ?d))(?![a-z0-9])"""
    )
)
_NEEDS_DOSE = re.compile(r"(?:td|bds?|b ?\. ?d|od|o ?\. ?d|qd|q ?\. ?d)$")
_DOSE_BEFORE = re.compile(
    r"\d ?(?:mg|mcg|µg|ug|g|gm|ml|iu|units?|u|%|tabs?|tablets?|caps?|drops?|puffs?|mmol|meq)?\b[^.;\n]{0,30}$"
    r"|\b(?:tabs?|tablets?|capsules?|caps?|drops?|puffs?|dose|po|iv|im|sc|oral|orally|given|taken?|on"
    r"|mg)\b[^.;\n]{0,20}$"
)
_SCHEDULE = re.compile(r"[0-2½](?: ?[-+] ?[0-2½]){2,3}(?![\d/]| ?[-+] ?\d| ?(?:mg|ml|g|mcg|years|days|weeks|months)\b)")
_EACH_RARELY = ("year", "month", "hour", "week", "minute")
_X_BEFORE = re.compile(r"(?:^|[^a-z])x ?$")


def frequency_at(plain: str, start: int, before: str) -> Amount | None:
    """The frequency that begins at this place, if one does."""
    if plain[start] in "0123456789":
        return _schedule(plain, start, before) or _with_number(plain, start, before)
    if plain[start] == "q" or plain.startswith(("each ", "every "), start):
        return _interval(plain, start, before) or _abbreviated(plain, start, before)
    if match := _PER_DAY.match(plain, start):
        return _per_day(plain, match, before)
    if match := _ONCE_EVERY.match(plain, start):
        interval = _interval(plain, match.end())
        return _amount(start, interval.end, interval.low, interval.high, interval.unit) if interval else None
    if match := _ONCE.match(plain, start):
        low = Fraction(_ONCE_VALUES[match["word"]])
        high = Fraction(_ONCE_VALUES.get(match["more"] or "", int(low)))
        if match["period"]:
            return _rate(start, match.end(), low, high, _PERIOD_OF[match["period"]])
        interval_in = _ONCE_IN.match(plain, start)
        return _interval_of(start, interval_in) if interval_in else None
    if match := _ALTERNATE.match(plain, start):
        return _amount(start, match.end(), Fraction(2), Fraction(2), "day")
    if match := _ALONE.match(plain, start):
        return _alone(start, match)
    return _abbreviated(plain, start, before) or _with_number(plain, start, before)


_ONCE_TWO = re.compile(r"once [^.;]{2,60} (?:and|then) once\b")
_ONCE_EARLIER = re.compile(r"\bonce [^.;]{2,60}$")


def _per_day(plain: str, match: re.Match[str], before: str) -> Amount | None:
    """ "10 mg selegiline per day", "eight 8-ounce glasses a day"; no "a day after the operation"."""
    if plain[match.start()] == "a" and (_NO_RATE_BEFORE.search(before) or _POINT_AFTER.match(plain, match.end())):
        return None
    if not _AMOUNT_OF.search(before):
        return None
    return _rate(match.start(), match.end(), Fraction(1), Fraction(1), _PERIOD_OF[match["period"]])


def times_alone(plain: str, start: int) -> tuple[int, int] | None:
    """End and value of a bare "twice" or "thrice", and of "once alone and once after"."""
    if plain.startswith("once", start):
        again = _ONCE_TWO.match(plain, start) or (
            plain.endswith(("and ", "then "), 0, start) and _ONCE_EARLIER.search(plain, max(0, start - 80), start)
        )
        return (start + 4, 1) if again else None
    match = re.compile(r"(?P<word>twice|thrice)\b").match(plain, start)
    return (match.end(), _ONCE_VALUES[match["word"]]) if match else None


def _with_number(plain: str, start: int, before: str) -> Amount | None:
    if match := _DAYS_IN.match(plain, start):
        return _rate_of(start, match, match["period"])
    if match := _TIMES.match(plain, start):
        return _rate_of(start, match, _PERIOD_OF[match["period"]])
    if match := _HOURLY.match(plain, start):
        unit = _WEEKLY_UNIT[match["unit"]]
        low, high = _values(match)
        return _amount(start, match.end(), low, high, unit) if low is not None and high is not None else None
    if _X_BEFORE.search(before) and (match := _TIMES_COUNTED.match(plain, start)):
        return _rate_of(start, match, "week" if "w" in match["period"] else "day")
    return None


def _schedule(plain: str, start: int, before: str) -> Amount | None:
    match = _SCHEDULE.match(plain, start)
    if not match or before[-1:] in ("-", "+", "/", "."):
        return None
    times = Fraction(sum(piece not in "0 -+" for piece in match[0]))
    return _amount(start, match.end(), times, times, "/day") if times else None


def _interval(plain: str, start: int, before: str = "") -> Amount | None:
    if plain[start] == "q":
        if before.endswith(("coenzyme ", "co")):
            return None
        if match := _Q_OTHER.match(plain, start):
            return _amount(start, match.end(), Fraction(1), Fraction(1), "/day")
        if match := _Q_HOURS.match(plain, start):
            low, high = _values(match)
            return _amount(start, match.end(), low or Fraction(0), high or Fraction(0), "h")
    match = (_EVERY_Q if plain[start] == "q" else _EVERY).match(plain, start)
    if match is None:
        return None
    return _interval_of(start, match)


def _interval_of(start: int, match: re.Match[str]) -> Amount | None:
    word, step = match["unit"], match.groupdict().get("other")
    unit = _WEEKLY_UNIT.get(word) or SYMBOL_OF.get(word) or _PERIOD_OF.get(word, word)
    if match["low"]:
        low, high = _values(match)
        if low is None or high is None:
            return None
        if word == "fortnight":
            low, high, unit = 2 * low, 2 * high, "week"
        return _amount(start, match.end(), low, high, unit)
    if match[0].startswith("each") and unit in _EACH_RARELY:
        return None
    steps = Fraction(_STEPS[step.strip()] if step else 1)
    if unit == "fortnight":
        return _amount(start, match.end(), Fraction(2), Fraction(2), "week")
    if steps == 1 and unit in ("day", "week", "month", "year"):
        return _amount(start, match.end(), steps, steps, f"/{unit}")
    return _amount(start, match.end(), steps, steps, unit) if unit in CALENDAR else None


def _alone(start: int, match: re.Match[str]) -> Amount:
    word = match[0]
    if word.startswith("half"):
        return _amount(start, match.end(), Fraction(1, 2), Fraction(1, 2), "h")
    if word == "hourly":
        return _amount(start, match.end(), Fraction(1), Fraction(1), "h")
    return _rate(start, match.end(), Fraction(1), Fraction(1), _PERIOD_OF[word])


def _abbreviated(plain: str, start: int, before: str) -> Amount | None:
    match = _ABBREVIATED.match(plain, start)
    if match is None or (_NEEDS_DOSE.match(match[0]) and not _DOSE_BEFORE.search(before)):
        return None
    if plain.startswith((" group", " vs", " patients"), match.end()):
        return None
    times = Fraction({"one": 1, "two": 2, "three": 3, "four": 4}[match.lastgroup or "one"])
    end = match.end() + ("." in match[0] and plain.startswith(".", match.end()))
    return _amount(start, end, times, times, "/day")


def _rate_of(start: int, match: re.Match[str], period: str) -> Amount | None:
    low, high = _values(match)
    return _rate(start, match.end(), low, high, period) if low is not None and high is not None else None


def _rate(start: int, end: int, low: Fraction, high: Fraction, period: str) -> Amount:
    if period == "min":  # of a pulse, not of a medicine
        return Amount(QuantityKind.MEASURE, low, high, "/min", start, end)
    if period == "fortnight":
        return _amount(start, end, 2 / (high or Fraction(1)), 2 / (low or Fraction(1)), "week")
    return _amount(start, end, low, high, f"/{period}")


def _values(match: re.Match[str]) -> tuple[Fraction | None, Fraction | None]:
    low = value_of(match["low"])
    return low, value_of(match["high"]) if match["high"] else low


def _amount(start: int, end: int, low: Fraction, high: Fraction, unit: str) -> Amount:
    name, factor = canonical(unit) if not unit.startswith("/") else (unit, Fraction(1))
    return Amount(QuantityKind.FREQUENCY, low * factor, high * factor, name, start, end)
