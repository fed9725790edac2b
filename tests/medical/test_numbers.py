"""Numbers as people write them."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemed.medical.quantities.numbers import NUMBER, ONES, TENS, value_of

_NUMBER = re.compile(NUMBER)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,000", 1000),
        ("10,00,000", 1000000),
        ("2,5", Fraction(5, 2)),
        ("0,125", Fraction(1, 8)),
        ("2\u00b75", Fraction(5, 2)),
        ("1\u2009900", 1900),
        ("600 000", 600000),
        ("1 200 000", 1200000),
        ("½", Fraction(1, 2)),
        ("1 ½", Fraction(3, 2)),
        ("1 1/2", Fraction(3, 2)),
        ("2.4 million", 2400000),
        ("12k", 12000),
        ("3 x 10^9", 3 * 10**9),
        ("3 x 10⁹", 3 * 10**9),
        ("10^9 million", 10**15),
        ("10^9 x 10^9", 10**18),
        ("½million", 500000),
        ("0 . 05", Fraction(1, 20)),
        ("40 , 000", 40000),
        (".5", Fraction(1, 2)),
        ("one and a half", Fraction(3, 2)),
        ("forty - two", 42),
        ("one hundred and twenty", 120),
        ("two hundred thousand", 200000),
        ("three-quarters of a", Fraction(3, 4)),
        ("half of one", Fraction(1, 2)),
        ("half a dozen", 6),
        ("a couple of", 2),
    ],
)
def test_a_written_number_is_its_exact_value(text: str, value: Fraction | int) -> None:
    match = _NUMBER.match(text)
    assert match is not None
    assert match[0] == text
    assert value_of(match[0]) == value


def test_two_tablets_of_five_hundred_are_not_two_thousand_five_hundred() -> None:
    match = _NUMBER.match("2 500 mg")
    assert match is not None
    assert match[0] == "2"


def test_a_number_of_a_thousand_digits_has_no_value() -> None:
    assert value_of("7" * 1000) is None
    assert value_of("1 x 10^99") is None


@given(st.integers(0, 10**9))
def test_grouping_does_not_change_a_number(number: int) -> None:
    assert value_of(f"{number:,}") == value_of(str(number)) == number


@given(st.decimals(0, 10**6, places=3))
def test_decimal_point_and_comma_say_the_same(number: object) -> None:
    text = str(number)
    assert value_of(text) == Fraction(text)
    assert value_of(text.replace(".", ",") + "0") == Fraction(text)


@given(st.sampled_from(sorted(TENS)), st.sampled_from([word for word, value in ONES.items() if 0 < value < 10]))
def test_number_words_add_up(ten: str, one: str) -> None:
    for text in (f"{ten}-{one}", f"{ten} {one}", f"{ten} - {one}"):
        match = _NUMBER.match(text)
        assert match is not None
        assert value_of(match[0]) == TENS[ten] + ONES[one]
