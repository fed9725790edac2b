"""Inputs that every calculator accepts, and short ways to ask for values and faults."""

from collections.abc import Mapping

import pytest

from edgemed.medical.calculators import InputsRefused, calculate

SAMPLES: dict[str, dict[str, object]] = {
    "weight_based_dose": {
        "weight_kg": 12.5,
        "dose_mg_per_kg": 40,
        "basis": "per day",
        "doses_per_day": 2,
        "maximum_single_mg": 1000,
        "maximum_daily_mg": 2000,
        "strength_mg_per_ml": 50,
    },
    "body_surface_area": {"group": "adult", "height_cm": 175, "weight_kg": 70},
    "drip_rate": {"volume_ml": 500, "time": 4, "time_unit": "hours", "drop_factor": "20"},
    "egfr_ckd_epi_2021": {"creatinine": 1.2, "creatinine_unit": "mg/dL", "age_years": 55, "sex": "male"},
    "creatinine_clearance": {
        "creatinine": 1.4,
        "creatinine_unit": "mg/dL",
        "age_years": 65,
        "sex": "male",
        "weight_kg": 70,
        "weight_kind": "ideal weight",
    },
    "due_date": {"last_period": "2026-03-01", "cycle_days": 30, "on_date": "2026-06-01"},
    "muac": {"group": "child of 6 to 59 months", "muac_mm": 120, "age_months": 14, "oedema_of_both_feet": False},
    "weight_for_age": {
        "sex": "female",
        "age": 14,
        "age_unit": "months",
        "weight_kg": 8.1,
        "oedema_of_both_feet": False,
    },
    "dehydration_plan": {
        "age_months": 14,
        "condition": "restless or irritable",
        "sunken_eyes": True,
        "drinking": "drinks normally",
        "skin_pinch": "goes back at once",
        "severe_malnutrition": False,
    },
    "ors_volume": {"plan": "B: ORS in the clinic", "age_months": 14, "weight_kg": 9, "severe_malnutrition": False},
    "paediatric_weight_estimate": {"formula": "APLS 2011", "age_months": 40},
}


def with_changes(name: str, **changes: object) -> dict[str, object]:
    """The sample of a calculator with some fields changed; None takes a field away."""
    return SAMPLES[name] | changes


def values(name: str, inputs: Mapping[str, object]) -> dict[str, int | float | str]:
    """Every value of a result by its label."""
    return {value.label: value.value for value in calculate(name, inputs).values}


def faults(name: str, inputs: Mapping[str, object]) -> dict[str, str]:
    """Every fault of inputs that must be refused, by field."""
    with pytest.raises(InputsRefused) as refusal:
        calculate(name, inputs)
    return {fault.name: fault.problem for fault in refusal.value.faults}
