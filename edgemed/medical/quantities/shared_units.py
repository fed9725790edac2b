"""Numbers of a list that share one unit: "2, 4 and 6 months", "300/150 mg", "days 1, 8 and 15", "6 x 4 cm"."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction

from edgemed.medical.mentions import QuantityKind
from edgemed.medical.quantities.amounts import Amount
from edgemed.medical.quantities.comparators import BEFORE
from edgemed.medical.quantities.found_values import is_found
from edgemed.medical.quantities.kinds import kind_of
from edgemed.medical.quantities.numbers import NUMBER, value_of
from edgemed.medical.quantities.units import FORMS

_LIST = re.compile(r" ?[,;/-]? ?(?:(?:and then|and|or|then|plus|vs ?\.?|versus|to|&) )?")
_COMMA = re.compile(r", ?| , | ?; ?|-")
_DAY_LIST = re.compile(r" ?[,/]? ?(?:(?:and|or|&) )?")
_MORE_DAYS = re.compile(
    r"(?: ,|,) (?:or |and )?\d{1,3} (?:and|or) \d{1,3}\b(?! ?[a-z%])|(?: ,|,) (?:or "
    r"|and )?\d{1,3} ?- ?\d{1,3}\b(?! ?[a-z%])"
)
_AGES_BEFORE = re.compile(r"\bage[sd](?: of| \d+,?){0,3} $")
_COUNTED_AFTER = re.compile(r" ?-? ?[a-z]+s\b|[.,]\d")
_SAMPLE_BEFORE = re.compile(r"\bn ?= ?$")
_BY = re.compile(r" ?(?:x|by) ?")
_LENDERS = (QuantityKind.DOSE, QuantityKind.AGE, QuantityKind.DURATION, QuantityKind.TIME, QuantityKind.WEIGHT)
_LENT_MEASURES = re.compile(r"%|/|°|mm|kcal|mmHg|kPa")
_ASIDE = re.compile(r" ?(?:\(|[;,]) ?(?:(?:range|mean|median)[ :,]*)?(?<! , )(?<!; )")
_CLOCKED = ("min", "day", "month")
_TIME_LINK = re.compile(r" ?(?:\([^()]{1,30}\) ?)?(?:,|and|or|, and|, or|,and)(?: possibly)? ")
_WRITTEN = {"min": "h"}
MOST_FORMS = 10
"""More tablets, drops or puffs are not listed before a comma: such a number is a strength."""


def with_shared_units(plain: str, found: list[Amount]) -> list[Amount]:
    """The amounts in order, each bare number of a list with the unit of the neighbour that has one."""
    _share_numbered_days(plain, found)
    _share_kinds(plain, found)
    _share_ages(plain, found)
    place = len(found) - 1
    while place > 0:
        first = place
        while first > 0 and _borrows(plain, found[first - 1], found[first], found[place]):
            found[first - 1] = _lent(found[first - 1], found[place], _factor(plain, found[place]))
            first -= 1
        if first < place and found[place].kind in (QuantityKind.DURATION, QuantityKind.TIME):
            _give_kind(plain, found, first, place)
        elif first < place and found[place].kind is QuantityKind.DOSE:
            _give_measure(plain, found, first, place)
        place = first - 1 if first < place else place - 1
    _share_times(plain, found)
    return found


def _share_kinds(plain: str, found: list[Amount]) -> None:
    """ "3.2 g/dL (0.2 to 12)", "40.3 (32.2-62.0) mg/day": what stands in brackets behind a value is one as well."""
    for place in range(1, len(found)):
        left, right = found[place - 1], found[place]
        if left.kind is QuantityKind.MEASURE and _ASIDE.fullmatch(plain, left.end, right.start):
            same = right.unit == left.unit or (
                not right.unit and right.kind is QuantityKind.COUNT and right.low < right.high
            )
            found[place] = replace(right, kind=left.kind) if same else right


def _share_ages(plain: str, found: list[Amount]) -> None:
    """ "ages 12 and 16", "aged 3, 5 and 9"."""
    for place in range(1, len(found)):
        left, right = found[place - 1], found[place]
        is_age = left.kind is QuantityKind.AGE and _AGES_BEFORE.search(plain, max(0, left.start - 30), left.start)
        is_bare = right.kind is QuantityKind.COUNT and not right.unit and not _COUNTED_AFTER.match(plain, right.end)
        is_listed = plain[left.end - 1].isdigit() and _DAY_LIST.fullmatch(plain, left.end, right.start)
        if is_age and is_bare and is_listed:
            found[place] = replace(right, kind=left.kind, unit="month", low=right.low * 12, high=right.high * 12)


def _share_numbered_days(plain: str, found: list[Amount]) -> None:
    """ "days 0, 3 and 7, 1 mL": the list goes on until its "and"."""
    closed = False
    for place in range(1, len(found)):
        left, right = found[place - 1], found[place]
        between = plain[left.end : right.start]
        is_listed = not closed and _is_numbered_day(plain, left) and _is_bare(plain, right)
        if is_listed and between.strip(" ") and _DAY_LIST.fullmatch(between):
            found[place] = _lent(right, left, _factor(plain, left))
            closed = between.endswith(("and ", "or ", "& ")) and not _MORE_DAYS.match(plain, right.end)
        else:
            closed = False


def _borrows(plain: str, left: Amount, right: Amount, lender: Amount) -> bool:
    if not lender.unit or not _is_bare(plain, left):
        return False
    between = plain[left.end : right.start]
    if _SAMPLE_BEFORE.search(plain, max(0, left.start - 6), left.start):
        return False
    if lender.kind is QuantityKind.AGE and plain[left.start].isalpha() and _COMMA.fullmatch(between):
        return False  # "two, 3-year-old twins"
    if _BY.fullmatch(between):
        return lender.unit == "mm"
    if not between.strip(" ") or not _LIST.fullmatch(between):
        return False
    is_limit = left.comparator in ("<", ">", ">=") and left.comparator != lender.comparator
    if is_limit and _COMMA.fullmatch(between):
        return False  # "2.5 mg if under 5, 5 mg if over"
    if lender.unit in FORMS and left.low > MOST_FORMS and _COMMA.fullmatch(between):
        return False  # "Sinemet 250/25, half a tab"
    if lender.kind in _LENDERS:
        return True
    if right is lender and _COMMA.fullmatch(between):
        return False  # "OR 7.7, 95% CI"
    if left.kind is QuantityKind.MEASURE and left.comparator != lender.comparator:
        return False
    return bool(_LENT_MEASURES.search(lender.unit))


def _lent(bare: Amount, lender: Amount, factor: Fraction) -> Amount:
    if lender.unit == "°C" and factor != 1:  # "65 or 70 degrees Fahrenheit"
        low, high = ((value - 32) * 5 / 9 for value in (bare.low, bare.high))
        return replace(bare, kind=lender.kind, unit=lender.unit, low=low, high=high)
    factor /= 12 if bare.kind is QuantityKind.AGE else 1
    return replace(bare, kind=lender.kind, unit=lender.unit, low=bare.low * factor, high=bare.high * factor)


def _give_kind(plain: str, found: list[Amount], first: int, last: int) -> None:
    """The words before a list of times say what all of it is."""
    start = found[first].start
    unit = _WRITTEN.get(found[last].unit, found[last].unit)
    kind = kind_of(unit, 0, plain[max(0, start - BEFORE) : start], plain, found[last].end)
    for place in range(first, last + 1):
        found[place] = replace(found[place], kind=kind)


def _give_measure(plain: str, found: list[Amount], first: int, last: int) -> None:
    """ "albuminuria (617 vs. 570 mg/day)": the word stands before the first number only."""
    start = found[first].start
    if is_found(found[last].unit, plain[max(0, start - BEFORE) : start], plain, found[last].end):
        for place in range(first, last + 1):
            found[place] = replace(found[place], kind=QuantityKind.MEASURE)


def _share_times(plain: str, found: list[Amount]) -> None:
    """ "at 0 h, 4 h and 8 h", "one hour or one day after": the neighbours of a time are times."""
    for place in [*range(1, len(found)), *range(len(found) - 1, 0, -1)]:
        left, right = found[place - 1], found[place]
        if {left.kind, right.kind} != {QuantityKind.DURATION, QuantityKind.TIME}:
            continue
        if left.unit not in _CLOCKED or right.unit not in _CLOCKED:
            continue
        if _TIME_LINK.fullmatch(plain, left.end, right.start):
            found[place - 1] = replace(left, kind=QuantityKind.TIME)
            found[place] = replace(right, kind=QuantityKind.TIME)


def _is_numbered_day(plain: str, amount: Amount) -> bool:
    """Whether it is of "days 1, 8 and 15", where the unit stands before the number."""
    in_days = amount.kind is QuantityKind.TIME and amount.unit in ("day", "month", "min")
    return in_days and plain[amount.end - 1].isdigit()


def _is_bare(plain: str, amount: Amount) -> bool:
    if amount.kind is QuantityKind.AGE:
        return amount.unit == "month" and amount.low % 12 == 0 and plain[amount.end - 1].isdigit()
    return amount.unit == "" and amount.kind in (QuantityKind.COUNT, QuantityKind.MEASURE, QuantityKind.DOSE)


def _factor(plain: str, amount: Amount) -> Fraction:
    """What one of the amount's unit as written is in its canonical unit."""
    number = _NUMBER.match(plain, amount.start)
    value = value_of(number[0]) if number else None
    return amount.low / value if value else Fraction(1)


_NUMBER = re.compile(NUMBER)
