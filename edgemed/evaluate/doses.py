"""Which doses a child model changes, and the gate that follows from it.

A dose span is a quantity of an answer by the parent that says how much of a drug or how often. It is changed when, with
the parent's answer up to there as prefix, the child's most likely token is another than the parent's at any of its
tokens. What the child would have said instead is found by letting it go on from the first such token.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgemed.core.records import Record
from edgemed.evaluate.token_text import TokenizedText
from edgemed.medical.entities import parse
from edgemed.medical.mentions import Quantity, QuantityKind

SpanKind = Literal["amount", "interval"]
ChangeKind = Literal["exact", "unit", "10x", "100x", "other"]
"""What the child says instead: the same amount in other words, the same number of another unit, ten or a hundred times
as much or as little, or something else."""

LEAST_SPANS = 100
"""With fewer amounts the gate does not apply."""
CONFIDENCE = 0.95
_MORE_TOKENS = 12
"""That the child may take beyond the length of the parent's span."""
_WORDS = 40
"""Bytes of what the child says, where that is no quantity."""
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_JOINT = re.compile(rb"\s?(?:to|or|-|\xe2\x80\x93)\s?")
_KINDS: dict[QuantityKind, SpanKind] = {QuantityKind.DOSE: "amount", QuantityKind.FREQUENCY: "interval"}


@dataclass(frozen=True, slots=True)
class DoseSpan:
    """One quantity of an answer that says how much or how often."""

    kind: SpanKind
    quantity: Quantity
    tokens: range


class DoseChange(Record):
    """One span whose tokens the child would not have chosen."""

    prompt: str
    """The prompt's id."""
    question: str
    span: SpanKind
    kind: ChangeKind
    parent_words: str
    child_words: str
    """What the child says in place of it, as far as it goes."""
    positions: tuple[int, ...]
    """The tokens of the answer at which the two differ."""


class Gate(Record):
    """Whether the child may stand in for the parent."""

    verdict: Literal["passed", "failed", "not applicable"]
    n_amounts: int
    n_intervals: int
    n_changed: int
    changed_share: float
    upper_bound: float
    """Of the share of changed spans, exact (Clopper and Pearson 1934), one-sided, at `confidence`. It takes spans for
    independent; those of one answer, or of two answers to one fact, are less than that."""
    confidence: float = CONFIDENCE
    reason: str


def dose_spans(answer: TokenizedText) -> list[DoseSpan]:
    """The amounts and intervals of an answer, in order; a token that a span begins or ends in belongs to it."""
    spans = (
        DoseSpan(_KINDS[quantity.kind], quantity, answer.tokens_of(quantity.start, quantity.end))
        for quantity in parse(answer.text).quantities
        if quantity.kind in _KINDS
    )
    return [span for span in spans if span.tokens]


def differing_tokens(
    span: DoseSpan, parent_first: npt.NDArray[np.int64], child_first: npt.NDArray[np.int64]
) -> tuple[int, ...]:
    """The places within the span where the most likely tokens of the two, (n_answer,) each, are not the same."""
    return tuple(place for place in span.tokens if parent_first[place] != child_first[place])


def tokens_to_go_on(span: DoseSpan, first_difference: int) -> int:
    """How many tokens the child may take from the first difference on, so that its own dose is complete."""
    return span.tokens.stop - first_difference + _MORE_TOKENS


def changed_words(
    answer: TokenizedText, span: DoseSpan, first_difference: int, child: TokenizedText
) -> tuple[ChangeKind, str]:
    """The kind of a change, and the child's words for it.

    `child` is the parent's answer before the token `first_difference` with the child's own continuation.
    """
    place = answer.starts[first_difference]
    said = parse(child.text).quantities
    raw = child.text.encode("utf-8", "surrogatepass")
    latest = span.quantity.start + (place <= span.quantity.start)  # a token may bring the blank before a number
    own = next(
        (q for q in said if _KINDS.get(q.kind) == span.kind and span.quantity.start <= q.start <= latest < q.end), None
    )
    start = min(span.quantity.start, place)
    if own is None:
        return "other", _words(raw[start : start + _WORDS])
    before, now = (_NUMBER.findall(_words(text)) for text in (_bytes_of(answer.text, span.quantity), _bytes(raw, own)))
    follows = next((q for q in said if q.start >= own.end), None)
    if follows and _JOINT.fullmatch(raw, own.end, follows.start):  # "40 to 10 mg" is no range, and no dose
        return "other", _words(raw[start : follows.end])
    return _kind(span.quantity, own, same_numbers=before == now), _words(raw[start : own.end])


def gate(n_amounts: int, n_intervals: int, n_changed: int) -> Gate:
    """The verdict over all spans of the parent's answers. One changed span fails, however few spans there are."""
    n = n_amounts + n_intervals
    bound = upper_bound(n_changed, n)
    share = n_changed / n if n else 0.0
    if n_changed:
        verdict, reason = "failed", f"{n_changed} of {n} doses and intervals changed"
    elif n_amounts < LEAST_SPANS:
        verdict = "not applicable"
        reason = f"the parent's answers hold {n_amounts} doses; a verdict needs {LEAST_SPANS}"
    else:
        verdict, reason = "passed", f"none of {n_amounts} doses and {n_intervals} intervals changed"
    return Gate.model_validate(
        {
            "verdict": verdict,
            "n_amounts": n_amounts,
            "n_intervals": n_intervals,
            "n_changed": n_changed,
            "changed_share": share,
            "upper_bound": bound,
            "reason": reason,
        }
    )


def upper_bound(n_changed: int, n: int, confidence: float = CONFIDENCE) -> float:
    """The largest share of changed spans that leaves `n_changed` of `n` or fewer a chance of 1 - confidence."""
    if n_changed >= n:
        return 1.0
    from scipy.stats import beta

    return float(beta.ppf(confidence, n_changed + 1, n - n_changed))


def _kind(before: Quantity, now: Quantity, *, same_numbers: bool) -> ChangeKind:
    units = [quantity.unit.removesuffix("/dose") for quantity in (before, now)]  # a dose is one, said or not
    if (before.low, before.high, units[0]) == (now.low, now.high, units[1]):
        return "exact" if before.comparator == now.comparator else "other"
    if same_numbers:
        return "unit"
    if units[0] != units[1] or not before.low or not before.high:
        return "other"
    factors = {now.low / before.low, now.high / before.high}
    if factors in ({Fraction(10)}, {Fraction(1, 10)}):
        return "10x"
    return "100x" if factors in ({Fraction(100)}, {Fraction(1, 100)}) else "other"


def _bytes_of(text: str, quantity: Quantity) -> bytes:
    return _bytes(text.encode("utf-8", "surrogatepass"), quantity)


def _bytes(raw: bytes, quantity: Quantity) -> bytes:
    return raw[quantity.start : quantity.end]


def _words(raw: bytes) -> str:
    return " ".join(raw.decode("utf-8", "replace").split())


def words_of(answer: TokenizedText, span: DoseSpan) -> str:
    """The span as the parent wrote it."""
    return _words(_bytes_of(answer.text, span.quantity))
