"""GBNF for JSON numbers between two bounds: what a number may look like, digit by digit."""

from __future__ import annotations

import math
from dataclasses import dataclass

MOST_DIGITS = 15
"""Before and behind the point: what a double holds exactly."""
_FURTHEST = 10**MOST_DIGITS - 1
_FRACTION = f'("." [0-9]{{1,{MOST_DIGITS}}})?'
_FRACTION_ABOVE_ZERO = f'"." [0-9]{{0,{MOST_DIGITS - 1}}} [1-9]'


@dataclass(frozen=True, slots=True)
class Bounds:
    """The least and the greatest number that may be; None is no bound."""

    low: float | None = None
    high: float | None = None
    above_low: bool = False
    """Whether the least itself is excluded."""
    below_high: bool = False


def integer_grammar(bounds: Bounds) -> str:
    """An expression for whole numbers within bounds. Raises ValueError when there is none, or one has 16 digits."""
    low = high = None
    if bounds.low is not None:
        low = math.floor(bounds.low) + 1 if bounds.above_low else math.ceil(bounds.low)
    if bounds.high is not None:
        high = math.ceil(bounds.high) - 1 if bounds.below_high else math.floor(bounds.high)
    _check(low, high)
    parts = []
    if high is None or high >= 0:
        parts.append(_whole(max(low or 0, 0), high))
    if low is None or low < 0:
        parts.append(f'"-" ({_whole(max(1, -(high or 0)), None if low is None else -low)})')
    return " | ".join(parts)


def number_grammar(bounds: Bounds) -> str:
    """An expression for numbers within bounds, which must be whole numbers themselves. Raises ValueError."""
    for bound in (bounds.low, bounds.high):
        if bound is not None and bound != int(bound):
            raise ValueError("a bound of a number must be a whole number")
    low = None if bounds.low is None else int(bounds.low)
    high = None if bounds.high is None else int(bounds.high)
    _check(low, high)
    parts = []
    if high is None or high >= 0:
        from_low = low is not None and low >= 0
        parts += _magnitudes(max(low or 0, 0), high, bounds.above_low and from_low, bounds.below_high)
    if low is None or low < 0:
        from_high = high is not None and high <= 0
        least, most = max(-(high or 0), 0), None if low is None else -low
        parts += [f'"-" {part}' for part in _magnitudes(least, most, bounds.below_high and from_high, bounds.above_low)]
    if not parts:
        raise ValueError("no number lies within the bounds")
    return " | ".join(parts)


def _check(low: int | None, high: int | None) -> None:
    if low is not None and high is not None and low > high:
        raise ValueError("no number lies within the bounds")
    if any(bound is not None and abs(bound) > _FURTHEST for bound in (low, high)):
        raise ValueError(f"a bound may have {MOST_DIGITS} digits")


def _magnitudes(low: int, high: int | None, above_low: bool, below_high: bool) -> list[str]:
    """Alternatives for numbers of 0 and more, with and without a fraction."""
    parts = []
    first = low + 1 if above_low else low
    if high is None or first < high:
        parts.append(f"({_whole(first, None if high is None else high - 1)}) {_FRACTION}")
    if above_low and (high is None or low < high):
        parts.append(f'"{low}" {_FRACTION_ABOVE_ZERO}')
    if high is not None and not below_high and not (above_low and low == high):
        parts.append(f'"{high}"')
    return parts


def _whole(low: int, high: int | None) -> str:
    """Alternatives for whole numbers of 0 and more, without leading zeros; up to 15 digits where there is no `high`."""
    if high is None:
        length = len(str(low))
        longer = [f"[1-9] [0-9]{{{length},{MOST_DIGITS - 1}}}"] if length < MOST_DIGITS else []
        return " | ".join([_between(str(low), "9" * length), *longer])
    parts = []
    for length in range(len(str(low)), len(str(high)) + 1):
        least = max(low, 10 ** (length - 1) if length > 1 else 0)
        greatest = min(high, 10**length - 1)
        parts.append(_between(str(least), str(greatest)))
    return " | ".join(parts)


def _between(low: str, high: str) -> str:
    """Numbers of one length between two of that length."""
    n = len(low)
    if set(low) == {"0"} and set(high) == {"9"}:
        return _digits("0", "9", n)
    if low[0] == high[0]:
        return _digit(low[0], low[0]) + (f" ({_between(low[1:], high[1:])})" if n > 1 else "")
    if n == 1:
        return _digit(low, high)
    parts = []
    first, last = low[0], high[0]
    if set(low[1:]) != {"0"}:
        parts.append(f"{_digit(first, first)} ({_between(low[1:], '9' * (n - 1))})")
        first = chr(ord(first) + 1)
    if set(high[1:]) != {"9"}:
        last = chr(ord(last) - 1)
    if first <= last:
        parts.append(f"{_digit(first, last)} {_digits('0', '9', n - 1)}")
    if last != high[0]:
        parts.append(f"{_digit(high[0], high[0])} ({_between('0' * (n - 1), high[1:])})")
    return " | ".join(parts)


def _digit(low: str, high: str) -> str:
    return f"[{low}]" if low == high else f"[{low}-{high}]"


def _digits(low: str, high: str, n: int) -> str:
    return _digit(low, high) + (f"{{{n}}}" if n > 1 else "")
