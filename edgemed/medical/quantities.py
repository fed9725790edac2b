"""Quantities of a plain text: numbers with their units, ranges, frequencies, ages, dates; English grammar.

A number is tried against the most special form first (a date, a blood pressure, "three times a day") and ends as a
plain count. What holds digits and fits nothing is kept as unparsed, with a reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from edgemed.medical.mentions import QuantityKind
from edgemed.medical.numbers import NUMBER, WORDS, value_of
from edgemed.medical.units import CALENDAR, FORMS, SPELLINGS, SYMBOL_OF, canonical

MAX_QUANTITIES = 2000
"""More numbers than that in one text are reported as one unread rest, which keeps the time of a hostile text linear."""


@dataclass(frozen=True, slots=True)
class Amount:
    """A quantity at its place in the plain text; what it belongs to is not known yet."""

    kind: QuantityKind
    low: Fraction
    high: Fraction
    unit: str
    start: int
    end: int
    comparator: str = ""


@dataclass(frozen=True, slots=True)
class Unread:
    """Digits at their place in the plain text that were not understood."""

    start: int
    end: int
    reason: str


_UNIT_WORD = "|".join(re.escape(word) for word in sorted(SYMBOL_OF, key=len, reverse=True))
_UNIT = rf"(?:{_UNIT_WORD})(?![a-z0-9µ²³])"
_BODY_WEIGHT = r"(?: ?(?:of )?(?:body[ -]?weight|bw|b\.w\.))?"
_PER = rf"(?: ?/ ?| per | an? (?=kg|kilo|day|dose|week|month|hour|minute)| each (?=dose))(?:{NUMBER}(?: |-)?)?{_UNIT}{_BODY_WEIGHT}"
_CHAIN = rf"(?:{_UNIT}{_BODY_WEIGHT}(?:{_PER})*|(?:/ ?|per ){_UNIT})"
_JOIN = r"(?: ?- ?| to | through | till | until |, up to | or |-to-|-or-)"

_QUANTITY = re.compile(
    rf"(?P<low>{NUMBER})"
    rf"(?:[ \u2009-]?(?P<first>{_CHAIN}))?"
    rf"(?:(?P<join>{_JOIN}|(?P<and> and | & ))(?P<high>{NUMBER})(?![\d:/]\d))?"
    rf"(?:[ \u2009-]{{0,2}}(?P<unit>{_CHAIN}))?"
)
_CANDIDATE = re.compile(
    r"\d+|[½¼¾⅓⅔⅛⅕]|\b(?:"
    + "|".join(WORDS)
    + r"|a (?=half|quarter|hundred|thousand|dozen|couple of)|once|twice|thrice|daily|nightly|weekly|fortnightly|monthly|yearly|hourly"
    r"|every|each|alternate|q|qd|od|o\.d|bd|b\.d|bid|b\.i\.d|tid|t\.i\.d|tds|t\.d\.s|qid|q\.i\.d|qds|q\.d\.s|qhs|hs|nocte|mane|eod|qod)\b"
    r"|\bq(?=\d)"
)

_PERIOD = {"d": "day", "day": "day", "daily": "day", "week": "week", "weekly": "week", "wk": "week"} | {
    "month": "month", "monthly": "month", "year": "year", "yearly": "year", "hour": "h", "hourly": "h", "night": "day",
    "nightly": "day", "24 hours": "day", "24 h": "day", "24h": "day", "24 hrs": "day", "fortnight": "fortnight",
    "morning": "day", "evening": "day", "afternoon": "day", "bedtime": "day", "meal": "meal", "minute": "min", "min": "min",
}  # fmt: skip
_PERIOD_WORD = "|".join(sorted(_PERIOD, key=len, reverse=True))
_TIMES = re.compile(
    rf"(?P<low>{NUMBER})(?:{_JOIN}(?P<high>{NUMBER}))? ?(?:x|times?|doses?)(?: ?/ ?| a | an | per | each | every | in an? | in | )?(?P<period>{_PERIOD_WORD})\b"
)
_ONCE = re.compile(
    rf"(?P<word>once|twice|thrice|two times|three times)(?: or (?P<more>twice|thrice|three times))?(?: ?/ ?| a | an | per | each | every | in | |-)(?P<period>{_PERIOD_WORD})\b"
)
_ONCE_VALUE = {"once": 1, "twice": 2, "thrice": 3, "two times": 2, "three times": 3}
_EVERY = re.compile(
    rf"(?:every|each|q\.?) ?(?:(?P<low>{NUMBER})(?:{_JOIN}(?P<high>{NUMBER}))?[ -]?)?(?P<other>other |second |alternate )?(?P<unit>{_UNIT_WORD}|morning|evening|night|bedtime|fortnight)\b"
)
_ALTERNATE = re.compile(r"alternate (?:days?|d)\b|eod\b|qod\b")
_HOURLY = re.compile(
    rf"(?P<low>{NUMBER})(?:{_JOIN}(?P<high>{NUMBER}))?[ -]?(?P<unit>hourly|hrly|weekly|monthly|yearly|minutely|daily)\b"
)
_ALONE = re.compile(rf"(?:{'|'.join(['daily', 'nightly', 'weekly', 'fortnightly', 'monthly', 'yearly', 'hourly'])})\b")
_ABBREVIATED = {
    "qd": 1, "od": 1, "o.d": 1, "qhs": 1, "hs": 1, "nocte": 1, "mane": 1, "bd": 2, "b.d": 2, "bid": 2, "b.i.d": 2,
    "tid": 3, "t.i.d": 3, "tds": 3, "t.d.s": 3, "qid": 4, "q.i.d": 4, "qds": 4, "q.d.s": 4,
}  # fmt: skip

_MONTH = r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
_DATE = re.compile(
    rf"\d{{4}}-\d{{1,2}}-\d{{1,2}}\b|\d{{1,2}}[/.]\d{{1,2}}[/.](?:\d{{4}}|\d{{2}})\b"
    rf"|\d{{1,2}}(?:st|nd|rd|th)?[ -](?:of )?{_MONTH}\b\.?(?:,?[ -]\d{{4}}\b)?"
)
_AFTER_MONTH = re.compile(rf"\b{_MONTH}\.? $")
_DAY_YEAR = re.compile(
    r"\d{1,2}(?:st|nd|rd|th)?,? \d{4}\b|\d{1,2}(?:st|nd|rd|th)?\b(?! ?(?:mg|m[lL]|g|mcg|tab))|\d{4}\b"
)
_CLOCK = re.compile(r"\d{1,2}[:.]\d{2}(?::\d{2})? ?(?:[ap]\.?m\b\.?|h(?:rs)?\b)|\d{1,2}:\d{2}\b|\d{1,2} ?[ap]\.?m\b\.?")
_PHONE = re.compile(r"\+?\d[\d-]*(?:[ -]\d{2,}){2,}(?! ?(?:mg|ml|g|kg|mcg|iu|units)\b)|\d{7,}(?![\d.,]| ?(?:[a-z%/]))")
_RATIO = re.compile(
    r"(\d+) ?: ?(\d{1,3}(?:[, ]?\d{3})*|\d+)(?![\d:])|(\d+) in (\d{1,3}(?:,\d{3})+|\d+)(?= |$|[.,;])(?! (?:hours|days|weeks|months|years))"
)
_PRESSURE = re.compile(
    r"(\d{2,3})(?:-\d{2,3})? ?/ ?(\d{2,3})(?:-\d{2,3})?(?: ?mm ?hg)?(?![\d/])(?! ?(?:mg|mcg|g|ml|iu|µg)\b)"
)
_COURSE = re.compile(r"(\d{1,2}) ?/ ?(7|52|12)(?!\d|/)")
_PAIR = re.compile(rf"(?P<one>{NUMBER}) ?/ ?(?P<two>{NUMBER}) ?(?P<unit>mg|mcg|g|iu|µg|ml)\b")
_OLD = re.compile(r"[ -]?(?:s )?(?:of age|olds?|y/o)\b|[ -]?/ ?o\b")
_AGE_SHORT = re.compile(
    r"(?P<low>\d{1,3}) ?(?:y/?o|yo|yr[s]? ?old|m/?o(?= |$))\b|(?P<year>\d{1,3})(?P<sex>[mf])(?= |$|,)"
)
_OR_MORE = re.compile(
    r"(?: old| of age)?,? ?(?:(?P<ge>or (?:more|older|above|over|greater|higher|longer)|and (?:older|above|over|up|upwards)|\+(?!\d)|plus\b)|(?P<le>or (?:less|younger|below|under|fewer|lower)|and (?:younger|below|under)))"
)

_COMPARATORS = (
    (">=", r"at least|no less than|not less than|minimum(?: of)?|min\.?|≥|>=|=>|from age|greater than or equal to|more than or equal to|not under"),
    ("<=", r"at most|no more than|not more than|not over|not to exceed|not exceed(?:ing)?|do not exceed|never exceed|never more than|max(?:imum|imal)?\.?(?: (?:daily )?dose)?(?: (?:is|of))?|up to|≤|<=|=<|less than or equal to|not exceed|as much as|limit(?:ed to)?(?: of)?|cap(?:ped)? at"),
    (">", r"more than|greater than|higher than|older than|heavier than|longer than|over|above|exceed(?:s|ing)?|beyond|>"),
    ("<", r"less than|lower than|younger than|lighter than|fewer than|under|below|shorter than|<"),
    ("~", r"about|around|approximately|approx\.?|roughly|nearly|almost|some|circa|ca\.?|~|≈|estimated"),
)  # fmt: skip
_BEFORE = re.compile(
    r"(?:^|[^a-z])(?:"
    + "|".join(f"(?P<c{n}>{words})" for n, (_, words) in enumerate(_COMPARATORS))
    + r")(?: ?the| age| ages| aged)? ?$"
)

_AGE_BEFORE = re.compile(
    r"(?:\bage[ds]?(?: of| between| from| is|:)?|\bage is|\b(?:child(?:ren)?|infants?|bab(?:y|ies)|newborns?|neonates?|kids?|patients?|adults?|people|persons?|boys?|girls?|toddlers?|adolescents?|wom[ae]n|m[ae]n)(?: (?:aged|of|is|from|between|who is|who are|below|under|over|above|less than|more than|younger than|older than|at least|up to|about|around|are|was))*|\bolder than|\byounger than|\bturned)"
    r"(?: (?:the )?ages? of)?(?: (?:about|only|at least|under|over|below|above|less than|more than|between|up to))? ?[<>≤≥]?=? ?$"
)
_AGE_AFTER = re.compile(
    r"[ ,-]*(?:male|female|boy|girl|man|woman|lady|gentleman|child|infant|baby|patient|kid|son|daughter|toddler|m\b|f\b)"
)
_FOR_BEFORE = re.compile(
    r"(?:\bfor(?: (?:the|a|up to|at least|about|another|the (?:first|next|last|past)|a total of|more than|less than|over|only|around|a minimum of))*|\bx|\bduring|\bover(?: (?:the (?:last|past|next)))?|\blasting|\blasted|\bcourse of|\bwithin|\bsince|\bduration(?: of)?:?|\bcontinue[ds]?(?: for)?|\btotal(?: of)?|\b(?:the )?(?:last|past|next|first))(?: (?:about|at least))? ?$"
)
_COURSE_AFTER = re.compile(r"[ -](?:course|history|duration|treatment|infusion|regimen|period|therapy|of treatment)")
_TIME_AFTER = re.compile(r" ?(?:ago|later|earlier|after|before|prior|post|from now|since)\b")
_TIME_BEFORE = re.compile(r"\b(?:after|before|within|in|at|until|by|day|days|week|weeks|month|hour) ?$")
_WEIGHT_CUE = re.compile(r"\b(?:weigh(?:s|ed|ing|t)?|wt|bodyweight|birth ?weight|born)\b[^.;]{0,14}$")
_YEAR_BEFORE = re.compile(r"\b(?:in|since|by|until|from|before|after|during|of|year|early|late|between|and|to|-) ?$")
_LAB_UNITS = re.compile(r"/(?:dL|L|mcL|min)$|^(?:mmHg|°C|°F|degree|%|kPa|kcal|cm|mm|m|km|mOsm|m2|cell|copy)(?=/|$)")
_NAME_BEFORE = re.compile(r"[a-z][a-z.]*-?$")


def amounts_of(plain: str) -> tuple[list[Amount], list[Unread]]:
    """All quantities of a plain text in order, and the digits that are none; linear in the text."""
    found: list[Amount] = []
    unread: list[Unread] = []
    done = 0
    for candidate in _CANDIDATE.finditer(plain):
        start = candidate.start()
        if start < done:
            continue
        if len(found) + len(unread) >= MAX_QUANTITIES:
            unread.append(Unread(start, len(plain), f"more than {MAX_QUANTITIES} numbers"))
            break
        outcome = _Reader(plain, start).read()
        if isinstance(outcome, Unread):
            unread.append(outcome)
            done = outcome.end
        elif outcome:
            found += outcome
            done = outcome[-1].end
    return _with_borrowed_units(plain, found), unread


class _Reader:
    """Reads the one quantity that begins at a place."""

    def __init__(self, plain: str, start: int) -> None:
        self.plain = plain
        self.start = start
        self.before = plain[max(0, start - 48) : start]

    def read(self) -> list[Amount] | Unread | None:
        special = self._frequency()
        if special is None and self.plain[self.start] in "0123456789½¼¾⅓⅔⅛⅕":
            if name := self._inside_a_name():
                return name
            special = self._digits()
        if special is not None:
            return [special] if isinstance(special, Amount) else special
        return self._plain_quantity()

    def _inside_a_name(self) -> Unread | None:
        """Digits glued to letters are a name ("b12", "covid-19"), unless a unit follows ("amoxicillin500mg")."""
        glued = _NAME_BEFORE.search(self.before)
        if (
            not glued
            or self.before[-1] == " "
            or glued[0] in ("x", "x-", "q", "day-", "weeks-", "wt", "bp", "hr", "rr")
        ):
            return None
        match = _QUANTITY.match(self.plain, self.start)
        if match and (match["unit"] or match["first"]) and len(glued[0]) > 3:
            return None
        end = re.compile(r"[\w.,-]*\w").match(self.plain, self.start)
        return Unread(self.start - len(glued[0]), end.end() if end else self.start + 1, "digits inside a name")

    def _frequency(self) -> Amount | None:
        plain, start = self.plain, self.start
        if match := _ONCE.match(plain, start):
            low = _ONCE_VALUE[match["word"]]
            high = _ONCE_VALUE.get(match["more"] or "", low)
            return self._rate(Fraction(low), Fraction(high), match)
        if match := _TIMES.match(plain, start):
            low_value = value_of(match["low"])
            high_value = value_of(match["high"]) if match["high"] else low_value
            if low_value is not None and high_value is not None:
                return self._rate(low_value, high_value, match)
        if match := _EVERY.match(plain, start):
            return self._interval(match)
        if match := _ALTERNATE.match(plain, start):
            return self._amount(QuantityKind.FREQUENCY, Fraction(2), Fraction(2), "day", match.end())
        if match := _HOURLY.match(plain, start):
            unit = {"hourly": "h", "hrly": "h", "minutely": "min"}.get(match["unit"], match["unit"][:-2])
            unit = "day" if match["unit"] == "daily" else unit
            return self._span(match, unit)
        if match := _ALONE.match(plain, start):
            period = {"fortnightly": "fortnight", "hourly": "hour"}.get(match[0], match[0])
            if match[0] in ("hourly",):
                return self._amount(QuantityKind.FREQUENCY, Fraction(1), Fraction(1), "h", match.end())
            if period == "fortnight":
                return self._amount(QuantityKind.FREQUENCY, Fraction(2), Fraction(2), "week", match.end())
            return self._amount(QuantityKind.FREQUENCY, Fraction(1), Fraction(1), f"/{_PERIOD[period]}", match.end())
        word = re.compile(r"[a-z]+(?:\.[a-z])*").match(plain, start)
        if word and (times := _ABBREVIATED.get(word[0])):
            end = word.end() + (plain[word.end() : word.end() + 1] == "." and "." in word[0])
            return self._amount(QuantityKind.FREQUENCY, Fraction(times), Fraction(times), "/day", end)
        return None

    def _rate(self, low: Fraction, high: Fraction, match: re.Match[str]) -> Amount | None:
        period = _PERIOD[match["period"]]
        if period == "fortnight":
            return self._amount(QuantityKind.FREQUENCY, Fraction(2) / low, Fraction(2) / high, "week", match.end())
        if period == "meal":
            return None
        return self._amount(QuantityKind.FREQUENCY, low, high, f"/{period}", match.end())

    def _interval(self, match: re.Match[str]) -> Amount | None:
        unit = SYMBOL_OF.get(match["unit"], match["unit"])
        if unit in ("morning", "evening", "night", "bedtime") or (
            unit == "day" and not match["low"] and not match["other"]
        ):
            return self._amount(QuantityKind.FREQUENCY, Fraction(1), Fraction(1), "/day", match.end())
        if unit == "fortnight":
            return self._amount(QuantityKind.FREQUENCY, Fraction(2), Fraction(2), "week", match.end())
        if unit not in CALENDAR:
            return None
        if match["low"]:
            return self._span(match, unit)
        n = Fraction(2 if match["other"] else 1)
        if n == 1 and unit in ("week", "month", "year"):
            return self._amount(QuantityKind.FREQUENCY, n, n, f"/{unit}", match.end())
        return self._amount(QuantityKind.FREQUENCY, n, n, unit, match.end())

    def _span(self, match: re.Match[str], unit: str) -> Amount | None:
        low = value_of(match["low"])
        high = value_of(match["high"]) if match["high"] else low
        if low is None or high is None:
            return None
        return self._amount(QuantityKind.FREQUENCY, low, high, unit, match.end())

    def _digits(self) -> list[Amount] | Amount | Unread | None:
        plain, start = self.plain, self.start
        if match := _PAIR.match(plain, start):
            return self._pair(match)
        if match := _DATE.match(plain, start) or _CLOCK.match(plain, start):
            return self._time(match)
        if _AFTER_MONTH.search(self.before) and (match := _DAY_YEAR.match(plain, start)):
            return self._time(match)
        if match := _PHONE.match(plain, start):
            digits = "".join(filter(str.isdigit, match[0]))
            if len(digits) > 15:
                return Unread(start, match.end(), "a long run of digits")
            return self._amount(QuantityKind.COUNT, Fraction(digits), Fraction(digits), "", match.end())
        if match := _COURSE.match(plain, start):
            if re.search(r"(?:\bx|\bfor|x) ?$", self.before) or (match[2] == "52" or match[2] == "7"):
                unit = {"7": "day", "52": "week", "12": "month"}[match[2]]
                return self._amount(QuantityKind.DURATION, Fraction(match[1]), Fraction(match[1]), unit, match.end())
        if match := _PRESSURE.match(plain, start):
            high, low = int(match[1]), int(match[2])
            if 60 <= high <= 300 and 20 <= low < high:
                return self._amount(QuantityKind.MEASURE, Fraction(high), Fraction(low), "mmHg", match.end())
        if match := _RATIO.match(plain, start):
            one, two = (match[1], match[2]) if match[1] else (match[3], match[4])
            two = re.sub("[, ]", "", two)
            if len(one) + len(two) < 20:
                kind = QuantityKind.MEASURE
                return Amount(kind, Fraction(one), Fraction(two), "ratio", start, match.end(), self._comparator())
        if match := _AGE_SHORT.match(plain, start):
            years = match["low"] or match["year"]
            unit = "month" if match[0].rstrip().endswith(("mo", "m/o")) else "year"
            return self._amount(QuantityKind.AGE, Fraction(years), Fraction(years), unit, match.end())
        return None

    def _pair(self, match: re.Match[str]) -> Amount | Unread | None:
        one, two = value_of(match["one"]), value_of(match["two"])
        if one is None or two is None:
            return None
        return self._amount(QuantityKind.DOSE, one, two, SYMBOL_OF[match["unit"]], match.end())

    def _time(self, match: re.Match[str]) -> Amount:
        digits = "".join(filter(str.isdigit, match[0]))
        value = Fraction(digits)
        return Amount(QuantityKind.TIME, value, value, "", self.start, match.end())

    def _plain_quantity(self) -> list[Amount] | Unread | None:
        match = _QUANTITY.match(self.plain, self.start)
        if match is None:
            return None
        low = value_of(match["low"])
        if low is None:
            return Unread(self.start, match.end("low"), "a number too long")
        if match["high"] and (pair := self._range(match, low)):
            return pair
        chain, end = match["first"], match.end("first")
        if not chain and not match["high"]:
            chain, end = match["unit"], match.end("unit")
        if not chain:
            end = match.end("low")
        if not chain and self.plain[self.start].isalpha() and not self._word_counts(match["low"], end):
            return None
        return [self._kinded(low, low, chain or "", end)]

    def _range(self, match: re.Match[str], low: Fraction) -> list[Amount] | None:
        high = value_of(match["high"])
        joined_by_and = match["and"] is not None
        if high is None or (
            joined_by_and and not re.search(r"\b(?:between|from)(?: the)?(?: ages? of)? ?$", self.before)
        ):
            return None
        spaced = match["join"] == " - " and high > 20 * low
        if spaced or (match["first"] and not match["unit"]):
            return None
        if low > high and not match["first"]:  # "reduced from 40 to 20 mg": two amounts
            if not match["unit"]:
                return None
            first = self._kinded(low, low, match["unit"], match.end("low"))
            second = _Reader(self.plain, match.start("high"))._kinded(high, high, match["unit"], match.end())
            return [first, second]
        end = match.end() if match["unit"] else match.end("high")
        if not match["unit"] and self.plain[self.start].isalpha():
            return None
        amount = self._kinded(low, high, match["unit"] or "", end)
        if match["first"] and match["unit"]:
            lower = self._kinded(low, low, match["first"], match.end("first"))
            if lower.unit != amount.unit:
                return None
            amount = replace(amount, low=lower.low)
        return [amount]

    def _word_counts(self, word: str, end: int) -> bool:
        """Whether a number word without a unit counts something ("three children"): "one" is mostly a pronoun."""
        return word != "one" and bool(re.compile(r" [a-z]{3,}").match(self.plain, end))

    def _amount(self, kind: QuantityKind, low: Fraction, high: Fraction, unit: str, end: int) -> Amount:
        name, factor = canonical(unit) if unit not in ("", "ratio") else (unit, Fraction(1))
        return Amount(kind, low * factor, high * factor, name, self.start, end, self._comparator())

    def _comparator(self) -> str:
        match = _BEFORE.search(self.before)
        if not match:
            return ""
        return next(sign for n, (sign, _) in enumerate(_COMPARATORS) if match[f"c{n}"] is not None)

    def _kinded(self, low: Fraction, high: Fraction, chain: str, end: int) -> Amount:
        unit = _symbols(chain)
        kind = self._kind(unit, low, end)
        if kind is QuantityKind.AGE and (old := _OLD.match(self.plain, end)):
            end = old.end()
        name, factor = canonical(unit) if unit else ("", Fraction(1))
        if unit == "kg" and kind is QuantityKind.WEIGHT:
            name, factor = "kg", Fraction(1)
        elif kind is QuantityKind.WEIGHT:
            name, factor = "kg", factor / 1000000
        low, high = low * factor, high * factor
        if unit == "°F":
            low, high, name = (low - 32) * 5 / 9, (high - 32) * 5 / 9, "°C"
        comparator = self._comparator()
        if more := _OR_MORE.match(self.plain, end):
            comparator = ">=" if more["ge"] else "<="
        return Amount(kind, low, high, name, self.start, end, comparator)

    def _kind(self, unit: str, value: Fraction, end: int) -> QuantityKind:
        if not unit:
            if value.denominator == 1 and 1900 <= value <= 2100 and _YEAR_BEFORE.search(self.before):
                return QuantityKind.TIME
            return QuantityKind.AGE if re.search(r"\bage[ds]?(?: is| of)?:? ?$", self.before) else QuantityKind.COUNT
        if unit in CALENDAR:
            return self._calendar_kind(unit, end)
        if unit == "kg" or (unit == "g" and _WEIGHT_CUE.search(self.before)):
            return QuantityKind.WEIGHT
        if unit.startswith("/") or _LAB_UNITS.search(unit):
            return QuantityKind.DOSE if unit.startswith(("drop", "mL/min", "mL/h", "L/min")) else QuantityKind.MEASURE
        return QuantityKind.DOSE

    def _calendar_kind(self, unit: str, end: int) -> QuantityKind:
        plain = self.plain
        if _OLD.match(plain, end) or (_AGE_AFTER.match(plain, end) and unit not in ("h", "min", "s")):
            return QuantityKind.AGE
        if _TIME_AFTER.match(plain, end):
            return QuantityKind.TIME
        if unit not in ("h", "min", "s") and _AGE_BEFORE.search(self.before):
            return QuantityKind.AGE
        if _FOR_BEFORE.search(self.before) or _COURSE_AFTER.match(plain, end):
            return QuantityKind.DURATION
        if _TIME_BEFORE.search(self.before):
            return QuantityKind.TIME
        if unit in ("year", "month") and (self._comparator() or _OR_MORE.match(plain, end)):
            return QuantityKind.AGE
        return QuantityKind.DURATION


def _symbols(chain: str) -> str:
    """ "mg per kg per day" as "mg/kg/day"."""
    text = re.sub(_BODY_WEIGHT.removesuffix("?") + r"(?=/| per |$)", "", chain) if "w" in chain else chain
    parts = re.split(r" ?/ ?| per | an? | each |^per ", text)
    symbols = []
    for part in parts:
        number = re.match(rf"({NUMBER})[ -]?(?=[a-zµ])", part)
        if number and (value := value_of(number[1])) is not None and part not in SYMBOL_OF:
            symbols.append(f"{value} {SYMBOL_OF[part[number.end() :]]}")
        else:
            symbols.append(SYMBOL_OF[part] if part else "")
    if symbols[0] == "MIU" and len(symbols) > 1 and "miu" in chain:
        symbols[0] = "mIU"
    return "/".join(symbols)


_LIST = re.compile(r"(?:, ?| ?/ ?| and | or |, and |, or | & | then |-)$")


def _with_borrowed_units(plain: str, found: list[Amount]) -> list[Amount]:
    """ "2, 4 and 6 months": a bare number in a list takes the unit of its neighbour to the right."""
    for place in range(len(found) - 2, -1, -1):
        left, right = found[place], found[place + 1]
        between = plain[left.end : right.start]
        if left.kind is QuantityKind.COUNT and right.unit and right.kind in _LENDERS and _LIST.fullmatch(between):
            found[place] = replace(left, kind=right.kind, unit=right.unit, **_scaled(plain, left, right))
    return found


_LENDERS = (QuantityKind.DOSE, QuantityKind.AGE, QuantityKind.DURATION, QuantityKind.TIME, QuantityKind.WEIGHT)


def _scaled(plain: str, left: Amount, right: Amount) -> dict[str, Fraction]:
    number = re.match(NUMBER, plain[right.start : right.end])
    value = value_of(number[0]) if number else None
    factor = right.low / value if value else Fraction(1)
    return {"low": left.low * factor, "high": left.high * factor}


__all__ = ["FORMS", "SPELLINGS", "Amount", "Unread", "amounts_of"]
