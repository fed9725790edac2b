"""Whether an answer states the right doses, and if not, how it is wrong.

A dose is drug, value, canonical unit, route and frequency; two texts agree when they state the same doses, each as
often, in whatever order and words. What the parser does not read is not compared: a text of which it reads no dose
states none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from edgemed.medical.entities import parse
from edgemed.medical.mentions import Entities, Quantity, QuantityKind, TermKind

DoseError = Literal["", "100x", "10x", "unit", "drug", "value", "frequency", "route", "addition", "omission", "other"]
"""Nothing, or the worst that is wrong: a hundred or ten times as much or as little, the same number of another unit,
the right amount of another drug, another amount, how often or by which way, a dose too many, a dose left out. "other"
is for whoever judges by more than the doses."""
_WORST_FIRST: tuple[DoseError, ...] = (
    "100x", "10x", "unit", "drug", "value", "frequency", "route", "addition", "omission",
)  # fmt: skip
_NUMBER = re.compile(rb"\d+(?:[.,]\d+)*")
_SENTENCE_END = re.compile(rb"[.;!?]\s|\n")


@dataclass(frozen=True, slots=True)
class StatedDose:
    """One dose as a text states it."""

    drug: str
    low: Fraction
    high: Fraction
    unit: str
    limit: str
    """ "<=" of a maximum, "" of a dose to give."""
    route: str
    frequency: str
    numbers: tuple[bytes, ...] = field(default=(), compare=False)
    """As they are written."""


def stated_doses(text: str) -> list[StatedDose]:
    """The doses of a text, in its order.

    A frequency belongs to the dose before it, a route to the doses of its sentence: the nearest before, else after.
    """
    found = parse(text)
    raw = text.encode("utf-8", "surrogatepass")
    doses = [quantity for quantity in found.quantities if quantity.kind is QuantityKind.DOSE]
    ends = [*(dose.start for dose in doses), len(raw)][1:]
    return [_stated(raw, found, dose, end) for dose, end in zip(doses, ends, strict=True)]


def dose_error(right: str, said: str) -> DoseError:
    """How the doses of `said` differ from those of `right`; "" when they do not."""
    wanted, given = Counter(stated_doses(right)), Counter(stated_doses(said))
    missing, extra = list((wanted - given).elements()), list((given - wanted).elements())
    errors: set[DoseError] = set()
    for dose in missing:
        rivals = [(_likeness(dose, other), other) for other in extra]
        likeness, nearest = max(rivals, key=lambda pair: pair[0], default=(0, dose))
        if not likeness:
            errors.add("omission")
            continue
        extra.remove(nearest)
        errors.add(_difference(dose, nearest))
    if extra:
        errors.add("addition")
    return next((error for error in _WORST_FIRST if error in errors), "")


def _stated(raw: bytes, found: Entities, dose: Quantity, end: int) -> StatedDose:
    often = [
        f"{q.low}-{q.high} {q.unit}"
        for q in found.quantities
        if q.kind is QuantityKind.FREQUENCY and dose.end <= q.start < end
    ]
    sentence = [0, *(cut.end() for cut in _SENTENCE_END.finditer(raw)), len(raw)]
    start, stop = max(at for at in sentence if at <= dose.start), min(at for at in sentence if at >= dose.end)
    routes = [term for term in found.terms if term.kind is TermKind.ROUTE and start <= term.start < stop]
    before, after = [t for t in routes if t.start < dose.start], [t for t in routes if dose.end <= t.start < end]
    route = before[-1].name if before else after[0].name if after else ""
    return StatedDose(
        drug=dose.of,
        low=dose.low,
        high=dose.high,
        unit=dose.unit.removesuffix("/dose"),  # a dose is one, said or not
        limit=dose.comparator,
        route=route,
        frequency=", ".join(often),
        numbers=tuple(_NUMBER.findall(raw, dose.start, dose.end)),
    )


def _likeness(dose: StatedDose, other: StatedDose) -> int:
    """0 for two doses that have nothing to do with each other."""
    same_amount = (dose.low, dose.high, dose.unit) == (other.low, other.high, other.unit)
    if bool(dose.limit) != bool(other.limit) or not (dose.drug == other.drug or same_amount):
        return 0
    others: Iterable[bool] = (dose.route == other.route, dose.frequency == other.frequency, dose.unit == other.unit)
    return 1 + 8 * (dose.drug == other.drug) + 4 * same_amount + sum(others)


def _difference(dose: StatedDose, other: StatedDose) -> DoseError:
    if (dose.low, dose.high, dose.unit) != (other.low, other.high, other.unit):
        return _amount_error(dose, other)
    if dose.drug != other.drug:
        return "drug"
    if dose.limit != other.limit:
        return "value"
    return "frequency" if dose.frequency != other.frequency else "route"


def _amount_error(dose: StatedDose, other: StatedDose) -> DoseError:
    if dose.numbers == other.numbers:
        return "unit"
    if dose.unit != other.unit or not dose.low or not dose.high:
        return "value"
    factors = {other.low / dose.low, other.high / dose.high}
    if factors in ({Fraction(10)}, {Fraction(1, 10)}):
        return "10x"
    return "100x" if factors in ({Fraction(100)}, {Fraction(1, 100)}) else "value"
