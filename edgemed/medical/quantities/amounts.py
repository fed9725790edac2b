"""What quantities.py finds in a plain text, before it is known what it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from edgemed.medical.mentions import QuantityKind


@dataclass(frozen=True, slots=True)
class Amount:
    """A quantity at its place in the plain text."""

    kind: QuantityKind
    low: Fraction
    high: Fraction
    unit: str
    start: int
    end: int
    comparator: str = ""


@dataclass(frozen=True, slots=True)
class Unread:
    """Digits at their place in the plain text that are no quantity, or were not understood."""

    start: int
    end: int
    reason: str
