"""Dates, clock times, days of a course, years and telephone numbers in a plain text.

A date is written as the number yyyymmdd (00 for what it does not say), a time of the clock in minutes after midnight.
Of two short numbers the first is the day.
"""

from __future__ import annotations

import re
from fractions import Fraction

from edgemed.medical.mentions import QuantityKind
from edgemed.medical.quantities.amounts import Amount, Unread
from edgemed.medical.quantities.numbers import joined

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = joined(
    r"""(?P<month>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?
    |oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\b"""
)
_YEAR = r"(?P<year>(?:19|20)\d\d)\b"
_DATES = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?P<year>\d{4})-(?P<number>\d{1,2})-(?P<day>\d{1,2})(?!\d)",
        r"(?P<day>\d{1,2})(?P<mark>[/.-])(?P<number>\d{1,2})(?P=mark)(?P<year>\d{4}|\d{2})(?![\d/]|\.\d|-\d)",
        rf"(?P<day>\d{{1,2}})(?:st|nd|rd|th)?[ -](?:of )?{_MONTH}(?!.? ?(?:be|have|cause|need|not|also|help|lead)\b)"
        rf"\.?(?:,?[ -]{_YEAR})?",
    )
)
_DAY_YEAR = re.compile(
    r"(?P<day>\d{1,2})(?:st|nd|rd|th)?\b(?: ?,? (?P<year>(?:19|20)\d\d)\b)?(?! ?(?:mg|m[lL]|g|mcg|tab"
    r"|[a-z]+s\b))(?![./-]\d)"
)
_MONTH_BEFORE = re.compile(rf"\b{_MONTH}\.?(?: ?,)? $")
_YEAR_ONLY = re.compile(_YEAR)
_CLOCK = re.compile(
    joined(
        r"""(?P<h>[01]?\d|2[0-4])(?: : |[:.h])(?P<m>[0-5]\d)(?::[0-5]\d)?(?![\d/:])(?P<half> ?[ap]\.? ?m\b\.?)?
        (?P<hours> ?(?:hrs?|hours?|h)\b)?
        |(?P<h2>1[0-2]|0?[1-9]) ?(?P<half2>[ap]\.? ?m\b\.?|o ?'? ?clock\b(?: in the (?:morning|afternoon|evening))?)
        |(?P<h4>[01]\d|2[0-3])(?P<m4>[0-5]\d) ?(?:h|hrs|hours)\b"""
    )
)
_AT = re.compile(r"\b(?:at|by|from|since|until|till|around|about|before|after|to|and|time:?|@|between) ?$|^$")
_DECADE = re.compile(r"(?P<year>(?:18|19|20)\d0)'?s\b")
_PHONE = re.compile(
    r"\d{3}\) ?\d{3}[ -]\d{4}\b|\+?\d[\d-]{0,14}(?:[ -]\d{2,14}){2,6}(?!\d)(?! ?(?:mg|ml|g|kg|mcg|iu|units|[a-z]+s)\b)"
    r"|\d{7,30}(?![\d.,]| ?[a-z%/])"
)
_SHORT_PHONE = re.compile(r"\d{3}-\d{4}\b")
_CALL = re.compile(
    r"\b(?:call|phone|tel|telephone|ring|dial|hotline|contact|whatsapp|sms|fax|number|no|mobile|line)\b[^;\n]{0,24}$"
)


def time_at(plain: str, start: int, before: str) -> Amount | Unread | None:
    """The date, clock time or telephone number that begins with the digits at this place."""
    for pattern in _DATES:
        if (match := pattern.match(plain, start)) and (date := _date(match, start)):
            return date
    if (month := _MONTH_BEFORE.search(before)) and (match := _DAY_YEAR.match(plain, start)):
        return _dated(start, match.end(), match["year"], month["month"], int(match["day"]))
    if (match := _YEAR_ONLY.match(plain, start)) and (month := _MONTH_BEFORE.search(before)):
        return _dated(start, match.end(), match["year"], month["month"], 0)
    if match := _DECADE.match(plain, start):
        return Amount(
            QuantityKind.TIME, Fraction(match["year"]), Fraction(int(match["year"]) + 9), "", start, match.end()
        )
    return _clock(plain, start, before) or _telephone(plain, start, before)


def _date(match: re.Match[str], start: int) -> Amount | None:
    groups = match.groupdict()
    day, number = int(groups["day"]), int(groups.get("number") or 0)
    if number > 12 >= day:
        day, number = number, day
    if day > 31 or number > 12 or day == 0 or ("number" in groups and number == 0):
        return None
    return _dated(start, match.end(), groups["year"], groups.get("month") or _MONTHS[number - 1], day)


def _dated(start: int, end: int, year: str | None, month: str, day: int) -> Amount:
    full = int(year or 0)
    full += 2000 if year and len(year) == 2 else 0
    value = Fraction(full * 10000 + (_MONTHS.index(month[:3]) + 1) * 100 + day)
    return Amount(QuantityKind.TIME, value, value, "date", start, end)


def _clock(plain: str, start: int, before: str) -> Amount | None:
    match = _CLOCK.match(plain, start)
    if match is None:
        return None
    hour, minute = match["h"] or match["h2"] or match["h4"], match["m"] or match["m4"] or "0"
    half = match["half"] or match["half2"] or ""
    mark = plain[match.end("h") : match.start("m")].strip() if match["h"] else ""
    certain = half or match["hours"] or match["h4"] or mark == "h"
    if match["h4"] and not _AT.search(before):
        return None
    if not certain and (mark != ":" or (len(hour) == 1 and not _AT.search(before))):
        return None
    if mark == "." and not half and not _AT.search(before):
        return None
    hours = int(hour) % 12 + (12 if half.strip().startswith("p") else 0) if half else int(hour)
    value = Fraction(60 * hours + int(minute))
    return Amount(QuantityKind.TIME, value, value, "clock", start, match.end())


def _telephone(plain: str, start: int, before: str) -> Amount | Unread | None:
    match = _PHONE.match(plain, start)
    if match is None and _CALL.search(before):
        match = _SHORT_PHONE.match(plain, start)
    if match is None:
        return None
    digits = "".join(filter(str.isdigit, match[0]))
    if len(digits) > 15:
        return Unread(start, match.end(), "a long run of digits")
    if "-" in match[0] and re.fullmatch(r"\d{1,3}(?:-\d{1,3}){2}", match[0]):
        return None
    return Amount(QuantityKind.COUNT, Fraction(digits), Fraction(digits), "", start, match.end())
