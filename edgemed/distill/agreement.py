"""Whether an answer that a teacher made up says the same as the answer that is known: what rejection sampling keeps.

The rule errs on one side only: an answer that is turned away costs a sample, one that is wrongly kept is taught.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from dataclasses import replace
from fractions import Fraction

from edgemed.distill.examples import plain
from edgemed.engines.thinking import CLOSE, OPEN
from edgemed.evaluate.dose_match import StatedDose, stated_doses
from edgemed.medical.entities import parse
from edgemed.medical.mentions import Entities, Quantity, QuantityKind, TermKind

_SENTENCE_END = re.compile(rb"(?<=[.!?;])\s|\n")
_AGAINST = frozenset({"avoid", "stop", "miss"})
"""Actions that turn a dose into its opposite."""
_OPTION = re.compile(r"\(?([A-Ha-h])\)?(?:[.):]\s*.*)?", re.DOTALL)
_CHOSEN = re.compile(
    r"(?:\\boxed\{\s*|\b(?:answer|option|choice)(?:\s+is)?\s*:?\s*\**\s*\(?)([A-H])\b|^\s*\**\(?([A-H])\)?\**(?=[.):\s]|$)",
    re.MULTILINE,
)


def agrees(answer: str, reference: str, question: str = "") -> bool:
    """True when the final answer, behind the reasoning, says what the reference says.

    Where the reference states doses: both state the same, each as often (drug, value or range, unit, maximum or not,
    route, frequency), each to be given or not to be given, with the same frequencies and durations in all, and the
    answer holds no number that the parser could not read and the reference does not have. Else, where the reference is
    an option's letter: the answer settles on that letter alone. Else both are the same words.

    A drug that is not named is the question's where that names one only. What is cut within its reasoning, or within a
    character, agrees with nothing.
    """
    final, known = final_answer(answer), final_answer(reference)
    if not final or not known or "\ufffd" in answer:
        return False
    only = _only_drug(question)
    if doses := _doses(known, only):
        return _doses(final, only) == doses and _times(final) == _times(known) and not _unread(final) - _unread(known)
    if option := _OPTION.fullmatch(known):
        return _chosen(final) == {option[1].upper()}
    return plain(final) == plain(known)


def final_answer(text: str) -> str | None:
    """What stands behind the reasoning; None when the reasoning does not end."""
    _, closed, behind = text.rpartition(CLOSE)
    if closed:
        return behind.strip()
    return None if OPEN in text else text.strip()


def _doses(text: str, only: str) -> Counter[tuple[StatedDose, bool]]:
    """The doses of a text, and whether each is spoken against; `only` is the drug of those that name none."""
    entities = parse(text)
    quantities = [quantity for quantity in entities.quantities if quantity.kind is QuantityKind.DOSE]
    ends = [found.end() for found in _SENTENCE_END.finditer(text.encode("utf-8", "surrogatepass"))]
    return Counter(
        (replace(stated, drug=stated.drug or only), _against(entities, dose, ends))
        for stated, dose in zip(stated_doses(text), quantities, strict=True)
    )


def _against(entities: Entities, dose: Quantity, ends: list[int]) -> bool:
    """Whether the drug is negated in the dose's sentence, or the nearest action, before it if there is one, is none."""
    sentence = bisect_right(ends, dose.start)
    terms = [term for term in entities.terms if bisect_right(ends, term.start) == sentence]
    if any(term.kind is TermKind.DRUG and term.negated and term.name == dose.of for term in terms):
        return True
    actions = [term for term in terms if term.kind is TermKind.ACTION]
    before = [term for term in actions if term.start < dose.start]
    nearest = before[-1] if before else actions[0] if actions else None
    return nearest is not None and nearest.name in _AGAINST


def _times(text: str) -> Counter[tuple[str, Fraction, Fraction, str, str]]:
    """How often and for how long, over all of a text."""
    return Counter(
        (q.kind.value, q.low, q.high, q.unit, q.comparator)
        for q in parse(text).quantities
        if q.kind in (QuantityKind.FREQUENCY, QuantityKind.DURATION)
    )


def _only_drug(question: str) -> str:
    """The drug of a question that names one; empty else."""
    drugs = {term.name for term in parse(question).terms if term.kind is TermKind.DRUG} if question else set()
    return drugs.pop() if len(drugs) == 1 else ""


def _unread(text: str) -> Counter[bytes]:
    """The numbers of a text that the parser did not understand, as they are written."""
    raw = text.encode("utf-8", "surrogatepass")
    return Counter(raw[rest.start : rest.end] for rest in parse(text).unparsed)


def _chosen(text: str) -> set[str]:
    """The options that an answer settles on; more than one where it wavers."""
    return {one or other for one, other in _CHOSEN.findall(text)}
