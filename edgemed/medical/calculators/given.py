"""The inputs of a calculator: judged one by one, then handed over as exact numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction

from edgemed.medical.calculators.record import CalculatorForm, CalculatorInput, InputFault, UnderstoodInput
from edgemed.medical.calculators.rounding import plain, text_of

Value = Fraction | str | bool | date


class Given:
    """The sound inputs of one calculation; numbers are fractions, so that sums carry no noise."""

    def __init__(self, form: CalculatorForm, values: Mapping[str, Value]) -> None:
        self._form = form
        self._values = values

    def has(self, *names: str) -> bool:
        """True when every one of these fields was given and is sound."""
        return all(name in self._values for name in names)

    def number(self, name: str) -> Fraction:
        """The number in a field that was given."""
        value = self._values[name]
        assert isinstance(value, Fraction)
        return value

    def maybe(self, name: str) -> Fraction | None:
        """The number in an optional field, None when it was left empty."""
        return self.number(name) if name in self._values else None

    def choice(self, name: str) -> str:
        """The choice made in a field that was given."""
        value = self._values[name]
        assert isinstance(value, str)
        return value

    def flag(self, name: str) -> bool:
        """The answer yes or no in a field that was given."""
        value = self._values[name]
        assert isinstance(value, bool)
        return value

    def day(self, name: str) -> date:
        """The date in a field that was given."""
        value = self._values[name]
        assert isinstance(value, date)
        return value

    def understood(self) -> tuple[UnderstoodInput, ...]:
        """Every given field as it was understood, in the order of the form."""
        return tuple(
            _understood(field, self._values[field.name]) for field in self._form.inputs if self.has(field.name)
        )


def judge(form: CalculatorForm, inputs: Mapping[str, object]) -> tuple[Given, list[InputFault]]:
    """The fields that are sound by themselves, and a fault for each that is missing, unknown or not sound."""
    known = {field.name: field for field in form.inputs}
    faults = [
        InputFault(name=str(name)[:40], problem=f"unknown; the fields are {', '.join(known)}")
        for name in inputs
        if name not in known
    ]
    values: dict[str, Value] = {}
    for name, field in known.items():
        raw = inputs.get(name)
        if raw is None:
            if field.required:
                faults.append(InputFault(name=name, problem=f"missing; {expected(field)} is needed"))
            continue
        read = _read(field, raw)
        if isinstance(read, InputFault):
            faults.append(read)
        else:
            values[name] = read
    return Given(form, values), faults


def expected(field: CalculatorInput) -> str:
    """What a field accepts, in words: "a number from 0.5 to 300 kg"."""
    if field.kind == "choice":
        return "one of " + ", ".join(f"{choice!r}" for choice in field.choices)
    if field.kind == "date":
        return "a date such as 2026-11-21"
    if field.kind == "boolean":
        return "true or false"
    words = "a whole number" if field.whole else "a number"
    return f"{words} {span(field.minimum, field.maximum, field.unit)}".rstrip()


def span(minimum: float | None, maximum: float | None, unit: str) -> str:
    """A range in words: "from 0.5 to 300 kg"."""
    low = "" if minimum is None else f"from {text_of(_exact(minimum))} "
    high = "" if maximum is None else f"to {text_of(_exact(maximum))} "
    return f"{low}{high}{unit}".strip()


def range_fault(given: Given, name: str, minimum: float, maximum: float, unit: str, why: str = "") -> list[InputFault]:
    """The fault of a field whose range depends on another field, in a list; empty when there is none."""
    number = given.number(name)
    if _exact(minimum) <= number <= _exact(maximum):
        return []
    return [InputFault(name=name, problem=f"{text_of(number)} {unit} is not {span(minimum, maximum, unit)}{why}")]


def _exact(number: float | int) -> Fraction:
    """The decimal number that a person wrote: 0.1 is one tenth, not the nearest binary fraction."""
    return Fraction(number) if isinstance(number, int) else Fraction(Decimal(repr(number)))


def _read(field: CalculatorInput, raw: object) -> Value | InputFault:
    wrong = InputFault(name=field.name, problem=f"{expected(field)} is needed")
    if field.kind == "number":
        return _read_number(field, raw, wrong)
    if field.kind == "choice":
        return raw if isinstance(raw, str) and raw in field.choices else wrong
    if field.kind == "boolean":
        return raw if isinstance(raw, bool) else wrong
    return _read_date(raw) or wrong


def _read_number(field: CalculatorInput, raw: object, wrong: InputFault) -> Fraction | InputFault:
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        return wrong
    if isinstance(raw, float) and not math.isfinite(raw):
        return InputFault(name=field.name, problem=f"not a finite number; {expected(field)} is needed")
    number = _exact(raw)
    if field.whole and number.denominator != 1:
        return wrong
    too_low = field.minimum is not None and number < _exact(field.minimum)
    too_high = field.maximum is not None and number > _exact(field.maximum)
    if too_low or too_high:
        side = "below" if too_low else "above"
        return InputFault(name=field.name, problem=f"{side} the range; {expected(field)} is needed")
    return number


def _read_date(raw: object) -> date | None:
    if isinstance(raw, date) and not isinstance(raw, datetime):
        return raw
    if not isinstance(raw, str) or len(raw) != len("2026-11-21"):
        return None
    try:
        return date.fromisoformat(raw)
    except ValueError:
        return None


def _understood(field: CalculatorInput, value: Value) -> UnderstoodInput:
    shown: int | float | str | bool
    if isinstance(value, Fraction):
        shown, text = plain(value), f"{text_of(value)} {field.unit}".strip()
    elif isinstance(value, bool):
        shown, text = value, "yes" if value else "no"
    else:
        shown = str(value)
        text = f"{shown} {field.unit}".strip() if field.kind == "choice" else shown
    unit = "date" if field.kind == "date" else field.unit
    return UnderstoodInput(name=field.name, label=field.label, value=shown, unit=unit, text=text)
