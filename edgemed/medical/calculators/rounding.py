"""Rounding for use: half up, in exact fractions, and numbers written without trailing zeros.

A trailing zero is left out and a leading one written, because "5.0 mg" is read as 50 mg and ".5 mg" as 5 mg.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from fractions import Fraction

from edgemed.medical.calculators.record import CalculatedValue


@dataclass(frozen=True, slots=True)
class Rounding:
    """How a kind of value is rounded: in words, and the step for a value of a given size."""

    words: str
    step: Callable[[Fraction], Fraction]


def _significant_step(value: Fraction) -> Fraction:
    """The step that leaves three significant figures, at most 1."""
    if value == 0:
        return Fraction(1)
    exponent = (Decimal(value.numerator) / Decimal(value.denominator)).adjusted()
    return min(Fraction(1), Fraction(10) ** (exponent - 2))


def _volume_step(value: Fraction) -> Fraction:
    """What syringes show: 0.1 mL from 1 mL up, 0.01 mL below; three figures where no syringe can show it."""
    if value < Fraction(1, 10):
        return _significant_step(value)
    return Fraction(1, 100) if value < 1 else Fraction(1, 10)


WHOLE = Rounding("to a whole number", lambda _: Fraction(1))
TENTH = Rounding("to 0.1", lambda _: Fraction(1, 10))
HUNDREDTH = Rounding("to 0.01", lambda _: Fraction(1, 100))
FIVE = Rounding("to the nearest 5", lambda _: Fraction(5))
HALF = Rounding("to the nearest 0.5", lambda _: Fraction(1, 2))
DOSE = Rounding("to 3 significant figures, to a whole number from 100 up", _significant_step)
VOLUME = Rounding("to 0.1 from 1 mL up, to 0.01 below, to 3 figures below 0.1 mL", _volume_step)
AS_IS = Rounding("not rounded", lambda value: value or Fraction(1))


def rounded(value: Fraction, rounding: Rounding, ceiling: Fraction | None = None) -> Fraction:
    """`value` rounded half up; down instead where rounding up would pass `ceiling`."""
    step = rounding.step(value)
    nearest = math.floor(value / step + Fraction(1, 2)) * step
    if ceiling is not None and nearest > ceiling:
        return math.floor(value / step) * step
    return nearest


def calculated(
    label: str, exact: Fraction | float, unit: str, rounding: Rounding, ceiling: Fraction | None = None
) -> CalculatedValue:
    """A value rounded for use, with what it was before."""
    number = rounded(Fraction(exact), rounding, ceiling)
    down = ceiling is not None and number < rounded(Fraction(exact), rounding)
    words = rounding.words + (", down so as not to pass the maximum" if down else "")
    text = f"{text_of(number)} {unit}".strip()
    return CalculatedValue(label=label, value=plain(number), unit=unit, exact=float(exact), rounding=words, text=text)


def calculated_day(label: str, day: date) -> CalculatedValue:
    """A date that was calculated, in ISO form."""
    text = day.isoformat()
    return CalculatedValue(label=label, value=text, unit="date", exact=None, rounding="not rounded", text=text)


def plain(number: Fraction) -> int | float:
    """The number for a record: an int where it is whole, else the nearest float, which prints without noise."""
    return number.numerator if number.denominator == 1 else float(number)


def text_of(number: Fraction) -> str:
    """The number as it is written, in full, without trailing zeros or an exponent: "0.05", "1250"."""
    if number.denominator == 1:
        return str(number.numerator)
    return f"{(Decimal(number.numerator) / Decimal(number.denominator)).normalize():f}"
