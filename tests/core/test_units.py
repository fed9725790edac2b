import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemed.core.errors import UsageError
from edgemed.core.units import format_bytes, format_seconds, parse_size


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("6GiB", 6 * 2**30),
        ("6GB", 6 * 10**9),
        ("512M", 512 * 10**6),
        ("1048576", 1048576),
        ("1.5 KiB", 1536),
        ("7b", 7),
    ],
)
def test_decimal_and_binary_sizes_are_read_as_what_they_say(text: str, n_bytes: int) -> None:
    assert parse_size(text) == n_bytes


@pytest.mark.parametrize("text", ["", "GB", "six", "-1GB", "1e9", "1 2", "5 XB"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="6GiB"):
        parse_size(text)


@given(st.integers(min_value=0, max_value=2**50))
def test_a_shown_size_is_read_back_within_its_three_digits(n_bytes: int) -> None:
    assert parse_size(format_bytes(n_bytes)) == pytest.approx(n_bytes, rel=0.006, abs=1)


def test_durations_choose_their_unit() -> None:
    assert [format_seconds(value) for value in (0.0123, 12.34, 245, 7380)] == [
        "12.3 ms", "12.3 s", "4 min 05 s", "2 h 03 min",
    ]  # fmt: skip
