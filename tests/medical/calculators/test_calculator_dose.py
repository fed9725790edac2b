"""Dose by weight, body surface and drip rate: worked examples, caps, and what must always hold."""

from decimal import Decimal
from fractions import Fraction

import pytest
from calculator_samples import faults, values, with_changes
from hypothesis import given
from hypothesis import strategies as st

from edgemed.medical.calculators import calculate

DOSE = "weight_based_dose"
weights = st.decimals("0.3", "300", places=2).map(float)
doses = st.decimals("0.01", "500", places=2).map(float)


def _dose(**inputs: object) -> dict[str, int | float | str]:
    return values(DOSE, inputs)


def test_the_examples_of_daviss_drug_guide() -> None:
    # Davis's Drug Guide, Pediatric Dosage Calculations: example 1 (amoxicillin), example 2 (ceftriaxone)
    first = _dose(weight_kg=10, dose_mg_per_kg=40, basis="per day", doses_per_day=2, strength_mg_per_ml=80)
    assert (first["one dose"], first["volume of one dose"]) == (200, 2.5)
    second = _dose(weight_kg=18, dose_mg_per_kg=100, basis="per day", doses_per_day=1, strength_mg_per_ml=40)
    assert (second["one dose"], second["volume of one dose"]) == (1800, 45)


def test_a_published_example_whose_volume_is_no_round_number() -> None:
    # QuickMath, weight-based pediatric dose: 10 mg/kg/day in 4 doses, 14 kg, 120 mg in 5 mL; 35 mg, 1.46 mL
    inputs = {"weight_kg": 14, "dose_mg_per_kg": 10, "basis": "per day", "doses_per_day": 4, "strength_mg_per_ml": 24}
    result = calculate(DOSE, inputs)
    volume = next(value for value in result.values if value.label == "volume of one dose")
    assert _dose(**inputs)["one dose"] == 35
    assert volume.value == 1.5
    assert volume.exact == pytest.approx(1.4583, abs=5e-5)
    assert volume.rounding.startswith("to 0.1 from 1 mL up")


def test_a_dose_over_the_maximum_is_capped_visibly() -> None:
    inputs = {"weight_kg": 60, "dose_mg_per_kg": 15, "basis": "per dose", "maximum_single_mg": 500}
    result = calculate(DOSE, inputs)
    assert result.category == "capped by the maximum for one dose"
    assert result.warnings == ("The dose was capped by the maximum for one dose.",)
    assert values(DOSE, inputs) == {"one dose": 500, "one dose before the maximum": 900}


def test_the_daily_maximum_caps_each_dose_and_is_not_passed_by_rounding() -> None:
    inputs = {"weight_kg": 60, "dose_mg_per_kg": 15, "basis": "per dose", "doses_per_day": 3, "maximum_daily_mg": 200}
    result = calculate(DOSE, inputs | {"strength_mg_per_ml": 24})
    assert result.category == "capped by the maximum for a day"
    found = {value.label: value.value for value in result.values}
    assert (found["one dose"], found["total in a day"], found["volume of one dose"]) == (66.6, 200, 2.7)
    assert "down so as not to pass the maximum" in result.values[0].rounding


def test_a_total_just_at_the_daily_maximum_is_not_shown_above_it() -> None:
    inputs = {"weight_kg": 10, "dose_mg_per_kg": 123.45, "basis": "per day", "doses_per_day": 1}
    assert _dose(**inputs)["total in a day"] == 1235
    assert _dose(**inputs, maximum_daily_mg=1234.5)["total in a day"] == 1234


def test_without_a_maximum_the_result_says_so() -> None:
    inputs = {"weight_kg": 45, "dose_mg_per_kg": 15, "basis": "per dose"}
    result = calculate(DOSE, inputs)
    assert result.category == "no maximum was given"
    assert "No maximum was given" in result.warnings[0]
    assert "adult dose" in result.warnings[1]


def test_a_volume_too_small_for_a_syringe_is_told() -> None:
    inputs = {"weight_kg": 3, "dose_mg_per_kg": 0.01, "basis": "per dose", "strength_mg_per_ml": 1}
    assert values(DOSE, inputs)["volume of one dose"] == 0.03
    assert "too small to measure" in calculate(DOSE, inputs).warnings[-1]


def test_what_a_dose_per_day_and_a_daily_maximum_need_is_asked_for() -> None:
    assert "a dose per day needs it" in faults(DOSE, with_changes(DOSE, doses_per_day=None))["doses_per_day"]
    per_dose = with_changes(DOSE, doses_per_day=None, basis="per dose")
    assert "a daily maximum needs it" in faults(DOSE, per_dose)["doses_per_day"]
    assert "whole number" in faults(DOSE, with_changes(DOSE, doses_per_day=2.5))["doses_per_day"]


def test_maxima_that_contradict_each_other_are_refused() -> None:
    told = faults(DOSE, with_changes(DOSE, maximum_single_mg=500, maximum_daily_mg=400))
    assert set(told) == {"maximum_single_mg", "maximum_daily_mg"}
    assert "400 mg is below the 500 mg" in told["maximum_daily_mg"]


@given(light=weights, more=weights, dose=doses, maximum=st.floats(0.001, 100000))
def test_more_weight_never_means_less_dose_and_never_more_than_the_maximum(
    light: float, more: float, dose: float, maximum: float
) -> None:
    light, heavy = sorted((light, more))
    small, large = (
        _dose(weight_kg=weight, dose_mg_per_kg=dose, basis="per dose", maximum_single_mg=maximum)["one dose"]
        for weight in (light, heavy)
    )
    assert not isinstance(small, str)
    assert not isinstance(large, str)
    assert small <= large <= maximum


@given(weight=weights, dose=doses, count=st.integers(1, 24), strength=st.decimals("0.1", "500", places=1).map(float))
def test_a_dose_agrees_with_decimal_arithmetic(weight: float, dose: float, count: int, strength: float) -> None:
    # computed here, by a second way: decimal numbers of 28 figures instead of fractions
    result = calculate(
        DOSE,
        {
            "weight_kg": weight,
            "dose_mg_per_kg": dose,
            "basis": "per day",
            "doses_per_day": count,
            "strength_mg_per_ml": strength,
        },
    )
    one = Decimal(str(weight)) * Decimal(str(dose)) / count
    exact = {value.label: value.exact for value in result.values}
    assert exact["one dose"] == pytest.approx(float(one), rel=1e-12)
    assert exact["volume of one dose"] == pytest.approx(float(one / Decimal(str(strength))), rel=1e-12)
    shown = result.values[0]
    assert not isinstance(shown.value, str)
    assert abs(Decimal(str(shown.value)) - one) <= max(one * Decimal("0.005"), Decimal("1e-15"))


@pytest.mark.parametrize(
    ("group", "height", "weight", "published"),
    [
        # OmniCalc, body surface area calculator: 175 cm, 70 kg, shown as 1.84 m² and 18,447 cm²
        ("adult", 175, 70, 1.8447),
        # SlideShare, instructions for pediatric doses: 100 cm, 20 kg, 0.74 m² cut off
        ("child under 18 years", 100, 20, 0.7454),
    ],
)
def test_published_examples_of_body_surface(group: str, height: float, weight: float, published: float) -> None:
    result = calculate("body_surface_area", {"group": group, "height_cm": height, "weight_kg": weight})
    assert result.values[0].exact == pytest.approx(published, abs=6e-5)
    assert result.values[0].unit == "m²"
    assert "Mosteller" in result.title


@given(height=st.integers(100, 199), weight=st.integers(25, 149))
def test_body_surface_grows_with_height_and_weight_and_agrees_with_decimal_arithmetic(height: int, weight: int) -> None:
    def area(height_cm: int, weight_kg: int) -> float:
        inputs = {"group": "adult", "height_cm": height_cm, "weight_kg": weight_kg}
        exact = calculate("body_surface_area", inputs).values[0].exact
        assert exact is not None
        return exact

    here = area(height, weight)
    assert here < area(height + 1, weight)
    assert here < area(height, weight + 1)
    # computed here, by a second way: the decimal square root of whole numbers, divided by 60
    assert here == pytest.approx(float(Decimal(height * weight).sqrt() / 60), rel=1e-14)


def test_a_height_that_only_a_child_has_is_refused_for_an_adult() -> None:
    told = faults("body_surface_area", {"group": "adult", "height_cm": 75, "weight_kg": 10})
    assert told == {
        "height_cm": "75 cm is not from 100 to 230 cm (adult)",
        "weight_kg": "10 kg is not from 25 to 300 kg (adult)",
    }
    child = {"group": "child under 18 years", "height_cm": 75, "weight_kg": 10}
    assert values("body_surface_area", child)["body surface area"] == 0.46
    assert set(faults("body_surface_area", child | {"height_cm": 201, "weight_kg": 151})) == {"height_cm", "weight_kg"}


def test_published_examples_of_drip_rates() -> None:
    # TestAndCalc, IV flow rates: 1500 mL over 12 hours, 15 drops/mL; 31 drops a minute
    inputs = {"volume_ml": 1500, "time": 12, "time_unit": "hours", "drop_factor": "15"}
    assert values("drip_rate", inputs) == {"rate": 125, "drops": 31}
    # Course Hero, formulas for IV calculations: 1 L over 12 hours; 83 mL/h
    rate = values("drip_rate", inputs | {"volume_ml": 1000})["rate"]
    assert rate == 83.3


@given(
    volume=st.integers(1, 10000),
    minutes=st.integers(3, 4320),
    factor=st.sampled_from(["10", "15", "20", "60"]),
)
def test_rate_times_time_is_the_volume_and_hours_agree_with_minutes(volume: int, minutes: int, factor: str) -> None:
    inputs = {"volume_ml": volume, "time": minutes, "time_unit": "minutes", "drop_factor": factor}
    rate, drops = (value.exact for value in calculate("drip_rate", inputs).values)
    assert rate is not None
    assert drops is not None
    assert rate * minutes / 60 == pytest.approx(volume)
    # computed here, by a second way: drops from the rate per hour
    assert drops == pytest.approx(float(Fraction(rate) * int(factor) / 60))
    if minutes % 15 == 0:
        by_hours = inputs | {"time": minutes / 60, "time_unit": "hours"}
        assert values("drip_rate", by_hours) == values("drip_rate", inputs)


def test_a_time_out_of_range_in_its_unit_is_refused() -> None:
    inputs = {"volume_ml": 500, "time": 73, "time_unit": "hours", "drop_factor": "20"}
    assert faults("drip_rate", inputs)["time"] == "73 hours is not from 0.05 to 72 hours"
    assert faults("drip_rate", inputs | {"time": 2.9, "time_unit": "minutes"})["time"].endswith("3 to 4320 minutes")
    assert "'60'" in faults("drip_rate", inputs | {"time": 4, "drop_factor": "30"})["drop_factor"]


def test_rates_that_nobody_can_count_are_told() -> None:
    slow = {"volume_ml": 10, "time": 24, "time_unit": "hours", "drop_factor": "20"}
    assert "Whole drops miss the rate" in calculate("drip_rate", slow).warnings[0]
    fast = {"volume_ml": 1000, "time": 30, "time_unit": "minutes", "drop_factor": "20"}
    assert "Too fast to count" in calculate("drip_rate", fast).warnings[0]
