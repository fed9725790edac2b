"""Growth, arm circumference, dehydration, fluids and estimated weight of children."""

from itertools import pairwise

import pytest
from calculator_samples import faults, values, with_changes
from hypothesis import given
from hypothesis import strategies as st

from edgemed.medical.calculators import calculate
from edgemed.medical.calculators.growth import LmsPoint, point_at, standard

CHILD = "child of 6 to 59 months"

# WHO's own weights in kg at -3, -2, -1, 0, 1, 2 and 3 SD, from its tables by month
WHO_WEIGHTS = [
    ("male", 0, (2.1, 2.5, 2.9, 3.3, 3.9, 4.4, 5.0)),
    ("female", 0, (2.0, 2.4, 2.8, 3.2, 3.7, 4.2, 4.8)),
    ("male", 3, (4.4, 5.0, 5.7, 6.4, 7.2, 8.0, 9.0)),
    ("female", 3, (4.0, 4.5, 5.2, 5.8, 6.6, 7.5, 8.5)),
    ("male", 6, (5.7, 6.4, 7.1, 7.9, 8.8, 9.8, 10.9)),
    ("female", 6, (5.1, 5.7, 6.5, 7.3, 8.2, 9.3, 10.6)),
    ("male", 12, (6.9, 7.7, 8.6, 9.6, 10.8, 12.0, 13.3)),
    ("female", 12, (6.3, 7.0, 7.9, 8.9, 10.1, 11.5, 13.1)),
    ("male", 24, (8.6, 9.7, 10.8, 12.2, 13.6, 15.3, 17.1)),
    ("female", 24, (8.1, 9.0, 10.2, 11.5, 13.0, 14.8, 17.0)),
    ("male", 36, (10.0, 11.3, 12.7, 14.3, 16.2, 18.3, 20.7)),
    ("female", 36, (9.6, 10.8, 12.2, 13.9, 15.8, 18.1, 20.9)),
    ("male", 48, (11.2, 12.7, 14.4, 16.3, 18.6, 21.2, 24.2)),
    ("female", 60, (12.1, 13.7, 15.8, 18.2, 21.2, 24.9, 29.5)),
]


def _z(sex: str, age: float, unit: str, weight: float) -> float:
    inputs = {"sex": sex, "age": age, "age_unit": unit, "weight_kg": weight, "oedema_of_both_feet": False}
    z = values("weight_for_age", inputs)["weight-for-age z-score"]
    assert not isinstance(z, str)
    return z


@pytest.mark.parametrize(("sex", "months", "weights"), WHO_WEIGHTS)
def test_the_table_gives_whos_own_weights(sex: str, months: int, weights: tuple[float, ...]) -> None:
    point = point_at(sex, months * 30.4375)
    assert [round(point.weight_at(z), 1) for z in range(-3, 4)] == list(weights)


def test_published_z_scores() -> None:
    # WHO's R package anthro, its test of weight for age: girl of 1522 days, 17 kg, 0.24
    assert _z("female", 1522, "days", 17) == 0.24
    # Grellety, figshare 4294085: girl of 365 days, 9 kg, 0.04885
    assert _z("female", 365, "days", 9) == 0.05
    exact = calculate(
        "weight_for_age",
        {"sex": "female", "age": 365, "age_unit": "days", "weight_kg": 9, "oedema_of_both_feet": False},
    )
    assert exact.values[0].exact == pytest.approx(0.04885, abs=1e-4)


@pytest.mark.parametrize(
    ("sex", "days", "who"),
    [
        # rows of WHO's table by day that lie between the points kept here
        ("male", 10, (0.2681, 3.5941, 0.14339)),
        ("male", 100, (0.1682, 6.5699, 0.11588)),
        ("male", 200, (0.1185, 8.1475, 0.1092)),
        ("female", 10, (0.2497, 3.4314, 0.14498)),
        ("female", 106, (0.0173, 6.1393, 0.125)),
        ("female", 200, (-0.0922, 7.4995, 0.12185)),
    ],
)
def test_between_the_points_the_z_score_is_right_to_003(sex: str, days: int, who: tuple[float, float, float]) -> None:
    true = LmsPoint(days, *who)
    for z in (-3, -2, 0, 2, 3):
        assert point_at(sex, days).z_of(true.weight_at(z)) == pytest.approx(z, abs=0.03)


@given(sex=st.sampled_from(["female", "male"]), days=st.integers(0, 1826), z=st.floats(-3, 3))
def test_a_weight_and_its_z_score_are_each_others_inverse(sex: str, days: int, z: float) -> None:
    # computed here, by a second way: the weight from the z-score, back to the z-score
    point = point_at(sex, days)
    assert point.z_of(point.weight_at(z)) == pytest.approx(z, abs=1e-9)


@given(sex=st.sampled_from(["female", "male"]), days=st.integers(0, 1826), weight=st.integers(5, 590))
def test_more_weight_is_a_higher_z_score(sex: str, days: int, weight: int) -> None:
    point = point_at(sex, days)
    assert point.z_of(weight / 10) < point.z_of((weight + 1) / 10)


def test_beyond_three_the_z_score_goes_on_by_the_distance_between_two_and_three() -> None:
    point = point_at("male", 365)
    step = point.weight_at(3) - point.weight_at(2)
    assert point.z_of(point.weight_at(3) + 2 * step) == pytest.approx(5)
    step = point.weight_at(-2) - point.weight_at(-3)
    assert point.z_of(point.weight_at(-3) - 0.5 * step) == pytest.approx(-3.5)


@pytest.mark.parametrize("sex", ["female", "male"])
def test_the_standard_runs_from_birth_to_sixty_months_without_a_jump(sex: str) -> None:
    points = standard(sex)
    assert (points[0].age_days, points[-1].age_days) == (0, 60 * 30.4375)
    for before, after in pairwise(points):
        assert 0 < after.age_days - before.age_days <= 31
        assert abs(after.median / before.median - 1) < 0.13
        assert abs(after.variation - before.variation) < 0.005


@pytest.mark.parametrize(
    ("weight", "band"),
    [
        (6.8, "severely underweight (below -3)"),
        (7.6, "underweight (-3 to below -2)"),
        (7.8, "not underweight (-2 or above)"),
    ],
)
def test_bands_of_weight_for_age_on_either_side_of_whos_weights(weight: float, band: str) -> None:
    inputs = {"sex": "male", "age": 12, "age_unit": "months", "weight_kg": weight, "oedema_of_both_feet": False}
    assert calculate("weight_for_age", inputs).category == band


def test_weight_for_age_refuses_oedema_and_months_that_are_too_coarse() -> None:
    name = "weight_for_age"
    assert "no z-score holds" in faults(name, with_changes(name, oedema_of_both_feet=True))["oedema_of_both_feet"]
    assert faults(name, with_changes(name, age=2))["age"] == "2 months is not from 3 to 60 months"
    assert "0 to 260 weeks" in faults(name, with_changes(name, age=261, age_unit="weeks"))["age"]
    assert _z("male", 8, "weeks", 5.4) == _z("male", 56, "days", 5.4)


def test_an_implausible_z_score_is_told() -> None:
    result = calculate("weight_for_age", with_changes("weight_for_age", weight_kg=40))
    assert "weigh again" in result.warnings[0]


@pytest.mark.parametrize(
    ("millimetres", "band"),
    [
        (114.9, "severe acute malnutrition"),
        (115, "moderate acute malnutrition"),
        (124.9, "moderate acute malnutrition"),
        (125, "no acute malnutrition by MUAC"),
    ],
)
def test_bands_of_a_childs_arm(millimetres: float, band: str) -> None:
    inputs = {"group": CHILD, "muac_mm": millimetres, "age_months": 20, "oedema_of_both_feet": False}
    assert calculate("muac", inputs).category == band
    assert calculate("muac", inputs | {"oedema_of_both_feet": True}).category == "severe acute malnutrition"


@pytest.mark.parametrize(
    ("millimetres", "band"),
    [
        (209.9, "at risk: below 210 mm"),
        (210, "at risk in some countries: 210 to below 230 mm"),
        (230, "not at risk by MUAC: 230 mm or more"),
    ],
)
def test_bands_of_a_womans_arm(millimetres: float, band: str) -> None:
    for group in ("pregnant woman", "breastfeeding woman"):
        result = calculate("muac", {"group": group, "muac_mm": millimetres})
        assert result.category == band
        assert "national protocol" in result.warnings[0]


def test_muac_asks_a_child_for_age_and_oedema_and_refuses_centimetres() -> None:
    assert set(faults("muac", {"group": CHILD, "muac_mm": 120})) == {"age_months", "oedema_of_both_feet"}
    assert "60 to 500 mm" in faults("muac", with_changes("muac", muac_mm=12.5))["muac_mm"]
    assert "6 to 59 months" in faults("muac", with_changes("muac", age_months=5))["age_months"]
    assert faults("muac", with_changes("muac", group="pregnant woman"))["age_months"] == "only for a child"


def _class(condition: str, eyes: bool, drinking: str, pinch: str) -> str:
    signs = {"condition": condition, "sunken_eyes": eyes, "drinking": drinking, "skin_pinch": pinch}
    return calculate("dehydration_plan", {"age_months": 20, "severe_malnutrition": False, **signs}).category


@pytest.mark.parametrize(
    ("condition", "eyes", "drinking", "pinch", "category"),
    [
        ("well, alert", False, "drinks normally", "goes back at once", "no dehydration: plan A"),
        ("restless or irritable", False, "drinks normally", "goes back at once", "no dehydration: plan A"),
        ("restless or irritable", True, "drinks normally", "goes back at once", "some dehydration: plan B"),
        ("well, alert", False, "drinks eagerly, thirsty", "goes back slowly", "some dehydration: plan B"),
        ("lethargic or unconscious", False, "drinks eagerly, thirsty", "goes back at once", "some dehydration: plan B"),
        (
            "lethargic or unconscious",
            True,
            "drinks normally",
            "goes back at once",
            "severe dehydration: plan C, refer urgently",
        ),
        (
            "well, alert",
            False,
            "drinks poorly or cannot drink",
            "goes back very slowly (2 seconds or more)",
            "severe dehydration: plan C, refer urgently",
        ),
    ],
)
def test_signs_give_the_class(condition: str, eyes: bool, drinking: str, pinch: str, category: str) -> None:
    assert _class(condition, eyes, drinking, pinch) == category


def test_severe_malnutrition_takes_the_plan_away() -> None:
    sample = with_changes("dehydration_plan", severe_malnutrition=True)
    result = calculate("dehydration_plan", sample)
    assert result.category == "some dehydration: severe acute malnutrition, refer"
    assert "ReSoMal" in result.warnings[-1]
    plan_a = {"plan": "A: at home", "age_months": 8, "severe_malnutrition": True}
    assert "refer" in calculate("ors_volume", plan_a).warnings[-1]


@given(
    condition=st.integers(0, 2),
    eyes=st.booleans(),
    drinking=st.integers(0, 2),
    pinch=st.integers(0, 2),
    which=st.integers(0, 2),
)
def test_a_worse_sign_never_gives_a_milder_class(
    condition: int, eyes: bool, drinking: int, pinch: int, which: int
) -> None:
    conditions = ("well, alert", "restless or irritable", "lethargic or unconscious")
    drinks = ("drinks normally", "drinks eagerly, thirsty", "drinks poorly or cannot drink")
    pinches = ("goes back at once", "goes back slowly", "goes back very slowly (2 seconds or more)")
    order = ("no dehydration", "some dehydration", "severe dehydration")

    def rank(signs: list[int]) -> int:
        category = _class(conditions[signs[0]], eyes, drinks[signs[1]], pinches[signs[2]])
        return order.index(category.split(":")[0])

    signs = [condition, drinking, pinch]
    worse = [min(sign + (index == which), 2) for index, sign in enumerate(signs)]
    assert rank(signs) <= rank(worse)


def test_plan_a_by_age() -> None:
    for months, least, most in ((23, 50, 100), (24, 100, 200)):
        inputs = {"plan": "A: at home", "age_months": months, "severe_malnutrition": False}
        assert list(values("ors_volume", inputs).values()) == [least, most]


@pytest.mark.parametrize(
    ("months", "least", "most"),
    [(3, 200, 400), (4, 400, 700), (11, 400, 700), (12, 700, 900), (23, 700, 900), (24, 900, 1400), (59, 900, 1400)],
)
def test_plan_b_by_age_when_the_weight_is_unknown(months: int, least: int, most: int) -> None:
    inputs = {"plan": "B: ORS in the clinic", "age_months": months, "severe_malnutrition": False}
    assert list(values("ors_volume", inputs).values()) == [least, most]
    assert "no weight was given" in calculate("ors_volume", inputs).warnings[-1]


def test_plan_b_by_weight_is_75_ml_per_kg_and_lies_in_the_table_of_its_weights() -> None:
    for weight, expected in ((6, 450), (8.3, 625), (10, 750), (12, 900), (19, 1425)):
        inputs = {"plan": "B: ORS in the clinic", "age_months": 20, "weight_kg": weight, "severe_malnutrition": False}
        assert values("ors_volume", inputs)["ORS over 4 hours"] == expected


@given(months=st.integers(2, 59), weight=st.integers(20, 300))
def test_plan_c_gives_100_ml_per_kg_in_6_or_3_hours(months: int, weight: int) -> None:
    # computed here, by a second way: rates times hours in whole tenths of a kg
    inputs = {
        "plan": "C: IV fluid, severe",
        "age_months": months,
        "weight_kg": weight / 10,
        "severe_malnutrition": False,
    }
    exact = {value.label: value.exact or 0 for value in calculate("ors_volume", inputs).values}
    minutes = exact["time of the first volume"], exact["time of the second volume"]
    assert minutes == ((60, 300) if months < 12 else (30, 150))
    given_ml = (exact["rate of the first volume"] * minutes[0] + exact["rate of the second volume"] * minutes[1]) / 60
    assert given_ml == pytest.approx(weight * 10)
    assert exact["IV volume in total"] == pytest.approx(weight * 10)
    assert exact["first IV volume"] == pytest.approx(weight * 3)
    assert exact["without IV: ORS by tube or mouth, for 6 hours"] == pytest.approx(weight * 2)


def test_fluid_plans_refuse_severe_malnutrition_and_plan_c_without_a_weight() -> None:
    inputs = {"plan": "C: IV fluid, severe", "age_months": 8, "severe_malnutrition": True}
    told = faults("ors_volume", inputs)
    assert set(told) == {"weight_kg", "severe_malnutrition"}
    assert "ReSoMal" in told["severe_malnutrition"]
    assert "2 to 30 kg" in told["weight_kg"]
    assert values("ors_volume", inputs | {"plan": "A: at home"})


@pytest.mark.parametrize(
    ("formula", "months", "kilograms"),
    [
        # Marikar, BMJ Innov 2015: 10 kg at 1 year, 25 kg at 6 years
        ("APLS 2011", 12, 10),
        ("APLS 2011", 72, 25),
        # ADC abstract G143(P): from 1 to 10 years 10 to 28 kg by APLS
        ("APLS original", 12, 10),
        ("APLS original", 131, 28),
        # computed here from the formulas: 3 × 5 + 7; (7 + 9) ÷ 2; 2 × (4 + 5); 4 × 14; 11 ÷ 2 + 4
        ("Luscombe and Owens", 60, 22),
        ("Best Guess", 7, 8),
        ("Best Guess", 59, 18),
        ("Best Guess", 179, 56),
        ("APLS 2011", 11, 9.5),
    ],
)
def test_estimated_weights(formula: str, months: int, kilograms: float) -> None:
    result = calculate("paediatric_weight_estimate", {"formula": formula, "age_months": months})
    assert result.values[0].value == kilograms
    assert formula in result.values[0].label
    assert "estimate only" in result.warnings[0]


@pytest.mark.parametrize(
    ("formula", "low", "high"),
    [("APLS 2011", 1, 155), ("APLS original", 12, 131), ("Luscombe and Owens", 12, 167), ("Best Guess", 1, 179)],
)
def test_a_formula_grows_within_its_ages_and_is_refused_outside(formula: str, low: int, high: int) -> None:
    def weight(months: int) -> float:
        exact = calculate("paediatric_weight_estimate", {"formula": formula, "age_months": months}).values[0].exact
        assert exact is not None
        return exact

    weights = [weight(months) for months in range(low, high + 1)]
    assert weights == sorted(weights)
    for months in (low - 1, high + 1):
        assert "age_months" in faults("paediatric_weight_estimate", {"formula": formula, "age_months": months})
