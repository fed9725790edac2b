"""Dose and risk calculators: published formulas, exact arithmetic, refusal outside their range."""

from edgemed.medical.calculators.record import (
    CalculatedValue,
    Calculator,
    CalculatorForm,
    CalculatorInput,
    CalculatorResult,
    InputFault,
    InputsRefused,
    UnderstoodInput,
)
from edgemed.medical.calculators.registry import calculate, calculators, describe

__all__ = [
    "CalculatedValue",
    "Calculator",
    "CalculatorForm",
    "CalculatorInput",
    "CalculatorResult",
    "InputFault",
    "InputsRefused",
    "UnderstoodInput",
    "calculate",
    "calculators",
    "describe",
]
