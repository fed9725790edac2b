"""The parts of an answer that a mistake would hurt at, with the weights of MedKL.

    5  doses, and numbers with a unit        3  diagnostic criteria
    4  contraindications and danger words    3  drugs                    1  every other clinical term

Drugs, terms and quantities are those of the clinical parser. What a contraindication forbids, and in whom, are the
terms of its sentence: behind "do not give", and before "is contraindicated" as well. In the same way the findings and
tests of a sentence that speaks of a diagnosis are its criteria. What no list names stays unseen.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from edgemed.distill.rendering import Rendered
from edgemed.medical.entities import parse
from edgemed.medical.mentions import Entities, Quantity, QuantityKind, Term, TermKind

EntityKind = Literal["dose", "number", "contraindication", "danger", "criterion", "drug", "term", "count"]
WEIGHTS: dict[EntityKind, float] = {
    "dose": 5,
    "number": 5,
    "contraindication": 4,
    "danger": 4,
    "criterion": 3,
    "drug": 3,
    "term": 1,
    "count": 1,
}
"""`number` has a unit, `count` has none."""

_READ_BYTES = 16_000
"""At a time: the parser reads 24,000 characters and calls the rest unparsed."""
_SENTENCE = re.compile(rb"[.!?;](?=\s)|\n")
_NOT = rb"(?:never|cannot|(?:do|does|should|must|may|can)(?:\s+not|n't))\s+(?:be\s+)?"
_DONE = rb"(?:give|given|used?|take|taken|start|started|prescribed?|inject|injected|mix|mixed|combined?)"
_NO_GOOD = rb"not\s+(?:be\s+)?(?:recommended|indicated|advised|suitable|safe)"
_FORBIDS = re.compile(
    rb"(?i)\b(?:contra-?indicat\w*|avoid(?:ed|ing)?|unsafe|" + _NO_GOOD + rb"|" + _NOT + _DONE + rb")\b"
)
_BACKWARD = re.compile(rb"(?i)contra-?indicat|\bbe\s|avoided|unsafe|" + _NO_GOOD)
"""What is forbidden so may stand before the words that forbid it."""
_DANGER = re.compile(
    rb"(?i)\b(?:danger(?:ous|\s+signs?)?|emergenc(?:y|ies)|life-?\s?threatening|fatal|toxic(?:ity)?|overdos\w+"
    rb"|refer(?:red|ral)?\s+(?:urgently|immediately|at\s+once|to\s+(?:a\s+)?hospital)|urgent(?:ly)?|immediate(?:ly)?|at\s+once)\b"
)
_DIAGNOSES = re.compile(
    rb"(?i)\b(?:criteri(?:a|on)|diagnos\w+|defined\s+(?:as|by)|confirm(?:s|ed)?|cut-?off|threshold)\b"
)
_LIST_NUMERAL = "a list numeral"
"""Why the parser did not read the 1 of "1. Give", which is nobody's number."""
_DIGIT = re.compile(rb"\d")
_FORBIDDEN = frozenset(TermKind) - {TermKind.ACTION, TermKind.RELATION, TermKind.ROUTE, TermKind.SEVERITY}
_CRITERIA = frozenset({TermKind.TEST, TermKind.FINDING})
_NO_ENTITY = frozenset({TermKind.ACTION, TermKind.RELATION})
_DRUGS = frozenset({TermKind.DRUG, TermKind.DRUG_CLASS})


@dataclass(frozen=True, slots=True)
class EntitySpan:
    """One entity of an answer, in bytes of its text."""

    start: int
    end: int
    weight: float
    kind: EntityKind


@dataclass(frozen=True, slots=True)
class Reading:
    """What the parser says of one answer."""

    spans: tuple[EntitySpan, ...]
    concepts: frozenset[str]
    """The names of the terms."""
    n_numbers: int
    """Quantities, those without a unit too."""


def entity_spans(answer: str) -> list[EntitySpan]:
    """The entities of an answer in their order; none overlap: the heavier wins, of equal ones the longer."""
    return list(read_answer(answer).spans)


@lru_cache(maxsize=8192)
def read_answer(answer: str) -> Reading:
    """Entities, concepts and numbers of an answer of any length; linear.

    Kept for a while: a corpus is read again for each arm of an ablation, and holds an answer more than once.
    """
    raw = answer.encode()
    found: list[EntitySpan] = []
    concepts: set[str] = set()
    n_numbers = 0
    for start, end in _portions(raw):
        part = raw[start:end]
        entities = parse(part.decode())
        found += (EntitySpan(one.start + start, one.end + start, one.weight, one.kind) for one in _of(part, entities))
        concepts.update(term.name for term in entities.terms if term.kind not in _NO_ENTITY)
        n_numbers += len(entities.quantities)
    return Reading(tuple(_apart(found)), frozenset(concepts), n_numbers)


def places_of(rendered: Rendered) -> tuple[int, ...]:
    """The tokens whose rivals are worth keeping: those in an entity heavier than 1, and those that hold a digit.

    Also the token behind a digit, which says that the numeral has ended.
    """
    raw, starts = rendered.text.encode(), rendered.starts()
    marked = {byte for found in _DIGIT.finditer(raw) for byte in found.span() if byte < len(raw)}
    for span in entity_spans(rendered.text):
        if span.weight > 1:
            marked.update(range(span.start, span.end))
    found = {bisect_right(starts, byte) - 1 for byte in marked}
    return tuple(sorted(found))


def _of(raw: bytes, entities: Entities) -> Iterator[EntitySpan]:
    """All entities of one portion, overlapping."""
    for quantity in entities.quantities:
        yield _span(quantity, _kind_of(quantity))
    for rest in entities.unparsed:
        if rest.reason != _LIST_NUMERAL:
            yield EntitySpan(rest.start, rest.end, WEIGHTS["count"], "count")
    for term in entities.terms:
        if term.kind not in _NO_ENTITY:
            yield _span(term, "drug" if term.kind in _DRUGS else "term")
    for found in _DANGER.finditer(raw):
        yield EntitySpan(*found.span(), WEIGHTS["danger"], "danger")
    ends = [found.end() for found in _SENTENCE.finditer(raw)]
    for found in _FORBIDS.finditer(raw):
        yield EntitySpan(*found.span(), WEIGHTS["contraindication"], "contraindication")
        start, end = _sentence(ends, found.start(), len(raw))
        yield from _within(
            entities.terms,
            start if _BACKWARD.search(found.group()) else found.start(),
            end,
            _FORBIDDEN,
            "contraindication",
        )
    for found in _DIAGNOSES.finditer(raw):
        yield from _within(entities.terms, *_sentence(ends, found.start(), len(raw)), _CRITERIA, "criterion")


def _kind_of(quantity: Quantity) -> EntityKind:
    if quantity.kind in (QuantityKind.DOSE, QuantityKind.FREQUENCY):
        return "dose"
    return "number" if quantity.unit else "count"


def _span(found: Term | Quantity, kind: EntityKind) -> EntitySpan:
    return EntitySpan(found.start, found.end, WEIGHTS[kind], kind)


def _within(
    terms: Iterable[Term], start: int, end: int, kinds: frozenset[TermKind], kind: EntityKind
) -> Iterator[EntitySpan]:
    return (_span(term, kind) for term in terms if term.kind in kinds and start <= term.start and term.end <= end)


def _sentence(ends: list[int], at: int, n_bytes: int) -> tuple[int, int]:
    """The sentence around a byte, by the ends of all sentences."""
    number = bisect_right(ends, at)
    return ends[number - 1] if number else 0, ends[number] if number < len(ends) else n_bytes


def _apart(spans: Iterable[EntitySpan]) -> list[EntitySpan]:
    """Spans of which none overlap, in their order."""
    kept: list[EntitySpan] = []
    starts: list[int] = []
    for span in sorted(spans, key=lambda one: (-one.weight, one.start - one.end, one.start)):
        at = bisect_right(starts, span.start)
        free = (not at or kept[at - 1].end <= span.start) and (at == len(kept) or kept[at].start >= span.end)
        if free and span.start < span.end:
            kept.insert(at, span)
            starts.insert(at, span.start)
    return kept


def _portions(raw: bytes) -> Iterator[tuple[int, int]]:
    """Places where a long text is cut for the parser: behind a line, else behind a blank, else between characters."""
    start = 0
    while len(raw) - start > _READ_BYTES:
        window = raw[start : start + _READ_BYTES]
        cut = max(window.rfind(b"\n"), 0) or max(window.rfind(b" "), 0) or _READ_BYTES - 1
        end = start + cut + 1
        while end < len(raw) and raw[end] & 0xC0 == 0x80:  # inside of a character
            end -= 1
        yield start, end
        start = end
    yield start, len(raw)
