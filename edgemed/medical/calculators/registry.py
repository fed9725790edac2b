"""All calculators by name. To add one: a file with its form and function, and one line in `_ALL`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from edgemed.core.errors import UsageError
from edgemed.medical.calculators import (
    arm,
    body_surface,
    dehydration,
    drip,
    growth,
    kidney,
    pregnancy,
    weight_dose,
    weight_estimate,
)
from edgemed.medical.calculators.given import judge
from edgemed.medical.calculators.record import Calculator, CalculatorForm, CalculatorResult, InputsRefused

_ALL = (
    weight_dose.CALCULATOR,
    body_surface.CALCULATOR,
    drip.CALCULATOR,
    kidney.EGFR,
    kidney.CLEARANCE,
    pregnancy.CALCULATOR,
    arm.CALCULATOR,
    growth.CALCULATOR,
    dehydration.SIGNS,
    dehydration.FLUID,
    weight_estimate.CALCULATOR,
)


@cache
def _by_name() -> dict[str, Calculator]:
    return {calculator.form.name: calculator for calculator in _ALL}


def calculators() -> dict[str, Calculator]:
    """Every calculator by its name, in the order in which they are shown."""
    return dict(_by_name())


def describe(name: str) -> CalculatorForm:
    """The form of a calculator. Raises UsageError for an unknown name."""
    return _calculator(name).form


def calculate(name: str, inputs: Mapping[str, object]) -> CalculatorResult:
    """What a calculator finds; the same inputs always give the same result.

    A field that is None counts as not given. Raises UsageError for an unknown calculator, and InputsRefused, a
    UsageError that names every faulty field with its range and unit, for inputs that cannot be used.
    """
    calculator = _calculator(name)
    form = calculator.form
    given, faults = judge(form, inputs)
    told = {fault.name for fault in faults}
    faults += [fault for fault in calculator.check(given) if fault.name not in told]
    if faults:
        order = [field.name for field in form.inputs]
        faults.sort(key=lambda fault: order.index(fault.name) if fault.name in order else len(order))
        raise InputsRefused(form, faults)
    outcome = calculator.work(given)
    return CalculatorResult(
        name=form.name,
        title=form.title,
        values=outcome.values,
        category=outcome.category,
        warnings=outcome.warnings,
        formula=form.formula,
        source=form.source,
        source_read=form.source_read,
        inputs=given.understood(),
    )


def _calculator(name: str) -> Calculator:
    found = _by_name().get(name)
    if found is None:
        raise UsageError(f"{name!r:.60} is no calculator.", next_step=f"use one of {', '.join(_by_name())}")
    return found
