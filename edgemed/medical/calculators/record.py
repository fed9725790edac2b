"""What a calculator is made of: its form, what it was given, what it found, and where its formula comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgemed.core.errors import UsageError
from edgemed.core.records import Record

if TYPE_CHECKING:
    from edgemed.medical.calculators.given import Given

NOTICE = "Decision support; the clinician decides."
READ = "2026-11-21"
"""The day on which the formulas' sources, or faithful quotations of them, were read."""
FROM_MEMORY = "from memory"

InputKind = Literal["number", "choice", "date", "boolean"]


class CalculatorInput(Record):
    """One field of a calculator's form."""

    name: str
    label: str
    kind: InputKind
    unit: str = ""
    minimum: float | None = None
    """Smallest number accepted, in `unit`; where the unit is itself an input, the smallest of all its units."""
    maximum: float | None = None
    whole: bool = False
    """True where only whole numbers make sense, such as doses in a day."""
    choices: tuple[str, ...] = ()
    required: bool = True
    default: int | float | str | bool | None = None
    """Always None for what describes a patient or a drug: nothing clinical is assumed silently."""
    note: str = ""
    """When an optional field is needed, or how to measure it."""


class CalculatorForm(Record):
    """A calculator as a person meets it: what it is for, what it asks, its formula and that formula's source."""

    name: str
    title: str
    purpose: str
    inputs: tuple[CalculatorInput, ...]
    formula: str
    source: str
    source_read: str
    """The ISO date on which somebody read the formula there, or "from memory"."""
    limits: str
    """For whom, and within which range, the formula holds; what this program refuses."""


class CalculatedValue(Record):
    """One number, range end or date that was calculated."""

    label: str
    value: int | float | str
    """Rounded for use, a whole number without a decimal point; a date in ISO form where `unit` is "date"."""
    unit: str
    exact: float | None
    """Before rounding; None for a date."""
    rounding: str
    """How `value` was rounded, such as "to 0.1 mL"."""
    text: str
    """`value` and `unit` as they are written, without trailing zeros: "2.5 mL"."""


class UnderstoodInput(Record):
    """One input as it was understood."""

    name: str
    label: str
    value: int | float | str | bool
    unit: str
    text: str


class CalculatorResult(Record):
    """What a calculator found, with all that is needed to check it by hand."""

    name: str
    title: str
    values: tuple[CalculatedValue, ...]
    category: str
    """The band or class, "" where the calculator has none."""
    warnings: tuple[str, ...]
    formula: str
    source: str
    source_read: str
    inputs: tuple[UnderstoodInput, ...]
    notice: str = NOTICE


class InputFault(Record):
    """What is wrong with one field, and what would be accepted."""

    name: str
    problem: str


class InputsRefused(UsageError):
    """Inputs that cannot be calculated with; `faults` names every field at fault."""

    def __init__(self, form: CalculatorForm, faults: Sequence[InputFault]) -> None:
        listed = "; ".join(f"{fault.name}: {fault.problem}" for fault in faults)
        names = ", ".join(dict.fromkeys(fault.name for fault in faults))
        super().__init__(
            f"{form.title} ({form.name}) was not calculated. {listed}.",
            next_step=f"check {names}, then calculate again",
        )
        self.faults = tuple(faults)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a calculator's own function returns."""

    values: tuple[CalculatedValue, ...]
    category: str = ""
    warnings: tuple[str, ...] = ()


def no_faults(_: Given) -> list[InputFault]:
    """For a calculator whose fields can be judged one by one."""
    return []


@dataclass(frozen=True, slots=True)
class Calculator:
    """A form, the function that calculates, and the one that judges fields which depend on each other.

    `check` is given only the fields that are sound by themselves, so that all faults are told at once.
    """

    form: CalculatorForm
    work: Callable[[Given], Outcome]
    check: Callable[[Given], list[InputFault]] = no_faults
