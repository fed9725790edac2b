"""Units: every spelling to one canonical unit and an exact factor."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemed.medical.quantities.unit_chains import CHAIN, symbols
from edgemed.medical.quantities.units import SPELLINGS, SYMBOL_OF, canonical

_CHAIN = re.compile(CHAIN)


@pytest.mark.parametrize(
    ("unit", "name", "factor"),
    [
        ("g", "mg", Fraction(1000)),
        ("mcg", "mg", Fraction(1, 1000)),
        ("MIU", "IU", Fraction(10**6)),
        ("g/dL", "mg/mL", Fraction(10)),
        ("mg/5 mL", "mg/mL", Fraction(1, 5)),
        ("mg/24 h", "mg/day", Fraction(1)),
        ("cell/mcL", "/mL", Fraction(1000)),
        ("week", "day", Fraction(7)),
        ("year", "month", Fraction(12)),
        ("mL/min/1.73 m2", "mL/min/1.73m2", Fraction(1)),
    ],
)
def test_a_unit_has_one_canonical_form(unit: str, name: str, factor: Fraction) -> None:
    assert canonical(unit) == (name, factor)


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(KeyError):
        canonical("furlong")


@given(st.sampled_from(sorted(SPELLINGS)))
def test_the_canonical_form_of_a_canonical_form_is_itself(symbol: str) -> None:
    name, _ = canonical(symbol)
    if name:
        assert canonical(name) == (name, 1)


@given(st.sampled_from(sorted(SYMBOL_OF)))
def test_every_spelling_is_read_as_its_unit(spelling: str) -> None:
    match = _CHAIN.match(spelling)
    assert match is not None
    assert symbols(match[0]) == SYMBOL_OF[spelling]


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("mg per kg body weight per day", "mg/kg/day"),
        ("mg / kg", "mg/kg"),
        ("micrograms kg - 1 i . v .", "mcg/kg"),
        ("mg . l ( - 1 )", "mg/L"),
        ("mg kg(-1) h(-1)", "mg/kg/h"),
        ("tablets in 24 hours", "tablet/day"),
        ("g a day", "g/day"),
        ("cd4 cells / mm3", "cell/mcL"),
        ("mg salt/kg", "mg/kg"),
        ("grams per 1,000 calories", "g/1000 kcal"),
        ("mg/325 mg", "mg"),
        ("mg%", "mg/dL"),
        ("miu/l", "mIU/L"),
        ("bpm", "/min"),
    ],
)
def test_a_chain_of_units_is_read_however_it_is_written(text: str, unit: str) -> None:
    match = _CHAIN.match(text)
    assert match is not None
    assert symbols(match[0]) == unit
