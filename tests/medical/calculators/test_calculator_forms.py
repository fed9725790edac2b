"""What all calculators promise: a form that tells everything, refusal that names everything, no noise in a figure."""

import json
import math
import re
from contextlib import suppress
from datetime import date

import pytest
from calculator_samples import SAMPLES, faults, with_changes
from hypothesis import given
from hypothesis import strategies as st

from edgemed.core.errors import UsageError
from edgemed.medical.calculators import (
    CalculatorInput,
    CalculatorResult,
    InputsRefused,
    calculate,
    calculators,
    describe,
)
from edgemed.medical.calculators.given import judge

FIELDS = [(name, field) for name in calculators() for field in describe(name).inputs]
NUMBERS = [(name, field) for name, field in FIELDS if field.kind == "number"]
CHOICES = [(name, field) for name, field in FIELDS if field.kind != "number"]
SHOWN = re.compile(r"-?(0|[1-9]\d*)(\.\d*[1-9])?")


def _label(value: object) -> str | None:
    """Short names for pytest: the calculator's, the field's, none for a number that is too long to print."""
    return value.name if isinstance(value, CalculatorInput) else value if isinstance(value, str) else None


def test_every_calculator_has_a_sample_and_gives_a_result() -> None:
    assert list(SAMPLES) == list(calculators())
    for name, sample in SAMPLES.items():
        result = calculate(name, sample)
        assert result.values
        assert result.notice == "Decision support; the clinician decides."
        assert result.formula == describe(name).formula
        assert result.source == describe(name).source
        assert [given.name for given in result.inputs] == [f.name for f in describe(name).inputs if f.name in sample]


@pytest.mark.parametrize("name", calculators())
def test_a_form_tells_its_source_formula_and_limits(name: str) -> None:
    form = describe(name)
    assert form.name == name
    assert form.title
    assert form.purpose
    assert form.formula
    assert form.source
    assert form.limits
    assert form.source_read == "from memory" or date.fromisoformat(form.source_read) == date(2026, 11, 21)
    assert len({field.name for field in form.inputs}) == len(form.inputs)


@pytest.mark.parametrize(("name", "field"), FIELDS, ids=_label)
def test_a_field_says_what_it_accepts_and_assumes_nothing(name: str, field: CalculatorInput) -> None:
    assert field.label
    assert field.default is None
    assert (field.kind == "choice") == bool(field.choices)
    assert (field.kind == "number") == (field.minimum is not None) == (field.maximum is not None)


@pytest.mark.parametrize("name", calculators())
def test_a_result_crosses_a_socket_unchanged(name: str) -> None:
    result = calculate(name, SAMPLES[name])
    assert CalculatorResult.model_validate(json.loads(result.model_dump_json())) == result
    assert calculate(name, SAMPLES[name]).digest() == result.digest()


@pytest.mark.parametrize("name", calculators())
def test_shown_numbers_carry_no_noise(name: str) -> None:
    for value in calculate(name, SAMPLES[name]).values:
        if value.unit == "date":
            assert date.fromisoformat(str(value.value)).isoformat() == value.text
            continue
        number = value.text.removesuffix(f" {value.unit}")
        assert SHOWN.fullmatch(number), value.text
        assert float(number) == value.value
        assert value.exact is not None


@pytest.mark.parametrize(("name", "field"), NUMBERS, ids=_label)
@pytest.mark.parametrize("side", ["below", "above"])
def test_a_number_beyond_its_range_is_refused_with_range_and_unit(name: str, field: CalculatorInput, side: str) -> None:
    assert field.minimum is not None
    assert field.maximum is not None
    step = 1 if field.whole else 1e-6
    wrong = field.minimum - step if side == "below" else field.maximum + step
    problem = faults(name, with_changes(name, **{field.name: wrong}))[field.name]
    assert side in problem
    assert field.unit in problem
    assert f"from {field.minimum:g} to {field.maximum:g}" in problem


@pytest.mark.parametrize(("name", "field"), NUMBERS, ids=_label)
def test_the_ends_of_a_range_belong_to_it(name: str, field: CalculatorInput) -> None:
    for end in (field.minimum, field.maximum):
        _, found = judge(describe(name), with_changes(name, **{field.name: end}))
        assert not found


@pytest.mark.parametrize(("name", "field"), NUMBERS, ids=_label)
@pytest.mark.parametrize(
    "wrong", [math.nan, math.inf, -math.inf, "5", True, [5], 10**5000, -(10**5000), date(2026, 1, 1)], ids="abcdefghi"
)
def test_what_is_no_finite_number_is_refused(name: str, field: CalculatorInput, wrong: object) -> None:
    assert field.name in faults(name, with_changes(name, **{field.name: wrong}))


@pytest.mark.parametrize(("name", "field"), FIELDS, ids=_label)
def test_a_missing_field_is_named_and_never_assumed(name: str, field: CalculatorInput) -> None:
    inputs = with_changes(name, **{field.name: None})
    if field.required:
        assert "missing" in faults(name, inputs)[field.name]


@pytest.mark.parametrize(("name", "field"), CHOICES, ids=_label)
@pytest.mark.parametrize("wrong", ["", "nothing of the kind", 7, 1.5, [], "2026-02-30", "20260301", "x" * 5000])
def test_a_wrong_choice_date_or_answer_is_refused(name: str, field: CalculatorInput, wrong: object) -> None:
    problem = faults(name, with_changes(name, **{field.name: wrong}))[field.name]
    for choice in field.choices:
        assert choice in problem


def test_all_faults_are_told_at_once() -> None:
    inputs = {"creatinine": 80, "creatinine_unit": "mg/dL", "age_years": 17, "sex": "unknown", "height": 3}
    told = faults("egfr_ckd_epi_2021", inputs)
    assert list(told) == ["creatinine", "age_years", "sex", "height"]
    assert "0.2 to 17 mg/dL" in told["creatinine"]
    assert "18 to 110 years" in told["age_years"]


def test_a_refusal_is_a_usage_error_with_a_next_step() -> None:
    with pytest.raises(UsageError) as refusal:
        calculate("body_surface_area", {})
    assert isinstance(refusal.value, InputsRefused)
    for name in ("group", "height_cm", "weight_kg"):
        assert name in refusal.value.what
        assert name in refusal.value.next_step


def test_an_unknown_calculator_is_refused_with_the_names_of_those_there_are() -> None:
    for ask in (lambda: calculate("apgar", {}), lambda: describe("apgar")):
        with pytest.raises(UsageError, match="apgar") as refusal:
            ask()
        assert "weight_based_dose" in refusal.value.next_step


def test_changing_the_listing_changes_no_calculator() -> None:
    calculators().clear()
    assert "muac" in calculators()


@given(name=st.sampled_from(list(SAMPLES)), data=st.data())
def test_whatever_is_given_is_calculated_or_refused(name: str, data: st.DataObject) -> None:
    anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates()
    fields = data.draw(
        st.dictionaries(st.sampled_from([f.name for f in describe(name).inputs]) | st.text(max_size=5), anything)
    )
    with suppress(InputsRefused):
        result = calculate(name, SAMPLES[name] | fields)
        assert all(value.exact is None or math.isfinite(value.exact) for value in result.values)
