"""Kidney function: published examples, both units, and how the estimates fall."""

import math
from fractions import Fraction

import pytest
from calculator_samples import faults, with_changes
from hypothesis import given
from hypothesis import strategies as st

from edgemed.medical.calculators import calculate

EGFR, CLEARANCE = "egfr_ckd_epi_2021", "creatinine_clearance"
ages = st.integers(18, 109)
sexes = st.sampled_from(["female", "male"])
creatinines = st.decimals("0.2", "16.9", places=2).map(float)


def _egfr(creatinine: float, age: float, sex: str, unit: str = "mg/dL") -> float:
    inputs = {"creatinine": creatinine, "creatinine_unit": unit, "age_years": age, "sex": sex}
    exact = calculate(EGFR, inputs).values[0].exact
    assert exact is not None
    return exact


def _clearance(creatinine: float, age: float, sex: str, weight: float, unit: str = "mg/dL") -> float:
    inputs = {"creatinine": creatinine, "creatinine_unit": unit, "age_years": age, "sex": sex}
    weighed = {"weight_kg": weight, "weight_kind": "actual weight"}
    exact = calculate(CLEARANCE, inputs | weighed).values[0].exact
    assert exact is not None
    return exact


def test_published_examples_of_egfr() -> None:
    # Smart Unit Converters, eGFR calculator: man of 45 years, 1.0 mg/dL, 94.59
    assert _egfr(1.0, 45, "male") == pytest.approx(94.59, abs=5e-3)
    # a comparison with kidney.org's calculator: man of 55 years, 1.2 mg/dL, 71 and G2
    result = calculate(EGFR, {"creatinine": 1.2, "creatinine_unit": "mg/dL", "age_years": 55, "sex": "male"})
    assert (result.values[0].value, result.category) == (71, "G2: mildly decreased")


@given(creatinine=creatinines, age=ages, sex=sexes)
def test_egfr_agrees_with_its_form_in_logarithms(creatinine: float, age: int, sex: str) -> None:
    # computed here, by a second way: a sum of logarithms, with one exponent chosen on either side of the knot
    kappa, low, factor = (0.7, -0.241, 1.012) if sex == "female" else (0.9, -0.302, 1.0)
    exponent = low if creatinine <= kappa else -1.2
    log = math.log(142 * factor) + exponent * math.log(creatinine / kappa) + age * math.log(0.9938)
    assert _egfr(creatinine, age, sex) == pytest.approx(math.exp(log), rel=1e-9)


@given(creatinine=creatinines, age=ages, sex=sexes)
def test_egfr_falls_with_creatinine_and_age(creatinine: float, age: int, sex: str) -> None:
    here = _egfr(creatinine, age, sex)
    assert _egfr(creatinine + 0.1, age, sex) < here
    assert _egfr(creatinine, age + 1, sex) < here


@given(umol=st.integers(18, 1500), age=ages, sex=sexes, weight=st.integers(25, 300))
def test_both_units_of_creatinine_agree(umol: int, age: int, sex: str, weight: int) -> None:
    mg = umol / 88.4
    assert _egfr(umol, age, sex, "µmol/L") == pytest.approx(_egfr(mg, age, sex), rel=1e-12)
    by_umol = _clearance(umol, age, sex, weight, "µmol/L")
    assert by_umol == pytest.approx(_clearance(mg, age, sex, weight), rel=1e-12)


def test_a_creatinine_under_the_wrong_unit_is_refused() -> None:
    for name in (EGFR, CLEARANCE):
        assert faults(name, with_changes(name, creatinine=80))["creatinine"] == "80 mg/dL is not from 0.2 to 17 mg/dL"
        told = faults(name, with_changes(name, creatinine=1.2, creatinine_unit="µmol/L"))
        assert told["creatinine"] == "1.2 µmol/L is not from 17.5 to 1500 µmol/L"


@pytest.mark.parametrize(
    ("creatinine", "stage"),
    [(0.9, "G1"), (1.2, "G2"), (1.6, "G3a"), (2.2, "G3b"), (3.5, "G4"), (9.0, "G5")],
)
def test_every_stage_of_kdigo_is_reached(creatinine: float, stage: str) -> None:
    inputs = {"creatinine": creatinine, "creatinine_unit": "mg/dL", "age_years": 50, "sex": "male"}
    assert calculate(EGFR, inputs).category.startswith(f"{stage}:")


def test_the_stage_changes_exactly_at_kdigos_limits() -> None:
    stages = {}
    for hundredths in range(20, 1700):
        result = calculate(
            EGFR,
            {"creatinine": hundredths / 100, "creatinine_unit": "mg/dL", "age_years": 30, "sex": "male"},
        )
        stages[result.values[0].value] = result.category.split(":")[0]
    limits = {90: "G1", 89: "G2", 60: "G2", 59: "G3a", 45: "G3a", 44: "G3b", 30: "G3b", 29: "G4", 15: "G4", 14: "G5"}
    assert {limit: stages[limit] for limit in limits} == limits


@given(creatinine=creatinines, age=ages, sex=sexes)
def test_stage_and_shown_value_never_contradict_each_other(creatinine: float, age: int, sex: str) -> None:
    inputs = {"creatinine": creatinine, "creatinine_unit": "mg/dL", "age_years": age, "sex": sex}
    result = calculate(EGFR, inputs)
    shown = result.values[0].value
    assert isinstance(shown, int)
    limits = {"G1": (90, 999), "G2": (60, 89), "G3a": (45, 59), "G3b": (30, 44), "G4": (15, 29), "G5": (0, 14)}
    low, high = limits[result.category.split(":")[0]]
    assert low <= shown <= high


@pytest.mark.parametrize(
    ("age", "sex", "weight", "creatinine", "published"),
    [
        # Super Global Calculator, creatinine clearance: examples of its pages on pharmacology and on health
        (65, "male", 70, 1.4, 52.1),
        (45, "female", 60, 0.9, 74.8),
        (60, "male", 80, 1.2, 74.1),
        (45, "female", 65, 0.9, 80.9),
    ],
)
def test_published_examples_of_clearance(
    age: int, sex: str, weight: float, creatinine: float, published: float
) -> None:
    assert _clearance(creatinine, age, sex, weight) == pytest.approx(published, abs=0.1)


@given(umol=st.integers(18, 1500), age=ages, sex=sexes, weight=st.integers(25, 300))
def test_clearance_agrees_with_whole_numbers(umol: int, age: int, sex: str, weight: int) -> None:
    # computed here, by a second way: one fraction of whole numbers, 884/720 for men and 17/20 of it for women
    top, bottom = (140 - age) * weight * 884, 720 * umol
    whole = Fraction(top * 17, bottom * 20) if sex == "female" else Fraction(top, bottom)
    assert _clearance(umol, age, sex, weight, "µmol/L") == pytest.approx(float(whole), rel=1e-14)


def test_clearance_says_which_weight_it_used_and_where_the_study_ended() -> None:
    result = calculate(CLEARANCE, with_changes(CLEARANCE, age_years=95, weight_kind="adjusted weight"))
    assert result.warnings[0] == "Calculated with the adjusted weight."
    assert "92 years" in result.warnings[1]
    assert "weight_kind" in faults(CLEARANCE, with_changes(CLEARANCE, weight_kind=None))
