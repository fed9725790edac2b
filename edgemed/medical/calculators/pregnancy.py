"""The due date from the last menstrual period, and the age of a pregnancy on a date."""

from __future__ import annotations

from datetime import date, timedelta

from edgemed.medical.calculators.given import Given
from edgemed.medical.calculators.record import (
    READ,
    CalculatedValue,
    Calculator,
    CalculatorForm,
    CalculatorInput,
    InputFault,
    Outcome,
)
from edgemed.medical.calculators.rounding import AS_IS, calculated, calculated_day

PREGNANCY_DAYS = 280
USUAL_CYCLE_DAYS = 28
LONGEST_PREGNANCY_DAYS = 44 * 7
EARLIEST, LATEST = date(1900, 1, 1), date(2200, 12, 31)

FORM = CalculatorForm(
    name="due_date",
    title="Due date from the last menstrual period",
    purpose="The estimated date of birth, and how far a pregnancy is on a given date.",
    inputs=(
        CalculatorInput(name="last_period", label="First day of the last menstrual period", kind="date"),
        CalculatorInput(
            name="cycle_days", label="Usual length of her cycle", kind="number", unit="days", minimum=21, maximum=45,
            whole=True, required=False, note="left empty, a cycle of 28 days is counted and said so",
        ),
        CalculatorInput(
            name="on_date", label="Age of the pregnancy on", kind="date", required=False,
            note="often today; not before the last period, at most 308 days after it",
        ),
    ),
    formula="due date = first day of the last menstrual period + 280 days + (cycle − 28) days",
    source=(
        "Naegele's rule as 280 days from the last menstrual period (pregnancy-calculators.com, How is the pregnancy "
        "due date calculated); longer cycles later by as many days (Ayushhealth, Expected date of delivery)"
    ),
    source_read=READ,
    limits=(
        "A sure date and regular cycles of 21 to 45 days. The rule by calendar "
        "(minus 3 months, plus 7 days) can differ by some days from these 280. Early ultrasound dates better."
    ),
)  # fmt: skip


def check(given: Given) -> list[InputFault]:
    """The faults of dates that no pregnancy has."""
    faults = [
        InputFault(name=name, problem=f"a date from {EARLIEST} to {LATEST} is needed")
        for name in ("last_period", "on_date")
        if given.has(name) and not EARLIEST <= given.day(name) <= LATEST
    ]
    if faults or not given.has("last_period", "on_date"):
        return faults
    last = given.day("last_period")
    if not 0 <= (given.day("on_date") - last).days <= LONGEST_PREGNANCY_DAYS:
        until = last + timedelta(days=LONGEST_PREGNANCY_DAYS)
        faults.append(InputFault(name="on_date", problem=f"a date from {last} to {until} is needed"))
    return faults


def work(given: Given) -> Outcome:
    """The due date, and the age of the pregnancy where a date was given."""
    cycle = given.maybe("cycle_days")
    shift = 0 if cycle is None else int(cycle) - USUAL_CYCLE_DAYS
    counted_from = given.day("last_period") + timedelta(days=shift)
    due = counted_from + timedelta(days=PREGNANCY_DAYS)
    values: tuple[CalculatedValue, ...] = (calculated_day("due date", due),)
    warnings = ["Only few children are born on their due date; ultrasound before 22 weeks confirms or corrects it."]
    if cycle is None:
        warnings.append(f"No cycle was given: {USUAL_CYCLE_DAYS} days were counted.")
    if given.has("on_date"):
        days = (given.day("on_date") - counted_from).days
        values += _age(days)
        if days < 0:
            warnings.append("With this cycle the pregnancy had not begun to count on that date.")
        if days > PREGNANCY_DAYS:
            warnings.append(f"The due date has passed by {days - PREGNANCY_DAYS} days.")
    return Outcome(values, warnings=tuple(warnings))


def _age(days: int) -> tuple[CalculatedValue, ...]:
    """The age in completed weeks and days; nothing before the count begins."""
    if days < 0:
        return ()
    weeks, rest = divmod(days, 7)
    return (
        calculated("age of the pregnancy, completed weeks", weeks, "weeks", AS_IS),
        calculated("age of the pregnancy, days beyond them", rest, "days", AS_IS),
    )


CALCULATOR = Calculator(FORM, work, check)
