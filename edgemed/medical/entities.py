"""What a clinical text names: drugs and other terms, and the quantities that belong to them.

`parse` joins three readings of one plain text: the lists (lexicon.py), the negation scopes (negation.py) and the
numbers (quantities.py). Digits inside a listed name ("vitamin B12") are the name's; whatever else holds a digit and
was not understood is reported as unparsed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgemed.medical.first_terms import FoundTerm, Scope, find_terms, scopes_of
from edgemed.medical.mentions import Entities, Quantity, QuantityKind, Term, TermKind, Unparsed
from edgemed.medical.quantities import Amount, Unread, amounts_of
from edgemed.medical.reading import read

if TYPE_CHECKING:
    from edgemed.medical.first_terms import Lexicon

_DIGITS = re.compile(r"\d+")
_SENTENCE_END = re.compile(r"[.!?](?= +[^a-z ]|$)|[;\n]")


def parse(text: str, language: str = "en", lexicon: Lexicon | None = None) -> Entities:
    """Terms, quantities and unparsed digits of any text, each in the order of the text; never raises.

    `language` chooses the negation words; `lexicon` is the shipped one unless a widened one is given.
    """
    reading = read(text)
    plain = reading.plain
    found = find_terms(plain, lexicon)
    amounts, unread = amounts_of(plain)
    amounts = [amount for amount in amounts if not _inside_term(amount.start, amount.end, found)]
    unread = [rest for rest in unread if not _inside_term(rest.start, rest.end, found)]
    unread += _digits_left(plain, [*amounts, *unread, *found])
    unread.sort(key=lambda rest: rest.start)
    owners = _owners(plain, amounts, found)
    offsets = reading.byte_offsets(place for span in (*found, *amounts, *unread) for place in (span.start, span.end))
    return Entities(
        terms=tuple(_term(term, scopes, offsets) for term, scopes in _with_scopes(found, scopes_of(plain, language))),
        quantities=tuple(
            Quantity(a.kind, a.low, a.high, a.unit, offsets[a.start], offsets[a.end], a.comparator, owner)
            for a, owner in zip(amounts, owners, strict=True)
        ),
        unparsed=tuple(Unparsed(offsets[rest.start], offsets[rest.end], rest.reason) for rest in unread),
    )


def _inside_term(start: int, end: int, found: Sequence[FoundTerm]) -> bool:
    return any(term.start <= start < term.end and end <= term.end for term in found)


def _digits_left(plain: str, spans: Sequence[Amount | Unread | FoundTerm]) -> list[Unread]:
    """Runs of digits that lie in none of the spans."""
    left: list[Unread] = []
    ordered = sorted((span.start, span.end) for span in spans)
    place = reach = 0
    for run in _DIGITS.finditer(plain):
        while place < len(ordered) and ordered[place][0] <= run.start():
            reach = max(reach, ordered[place][1])
            place += 1
        if run.end() > reach:
            left.append(Unread(run.start(), run.end(), "a number that was not understood"))
    return left


def _with_scopes(found: Sequence[FoundTerm], scopes: Sequence[Scope]) -> list[tuple[FoundTerm, list[Scope]]]:
    return [(term, [s for s in scopes if s.start <= term.start and term.end <= s.end]) for term in found]


def _term(term: FoundTerm, scopes: list[Scope], offsets: dict[int, int]) -> Term:
    status = next((scope.status for scope in scopes if scope.status != "negated"), "")
    negated = any(scope.status == "negated" for scope in scopes)
    return Term(term.kind, term.name, offsets[term.start], offsets[term.end], negated, status)


def _owners(plain: str, amounts: Sequence[Amount], found: Sequence[FoundTerm]) -> list[str]:
    """For each amount the drug it is a dose of, by nearness in its sentence; "" for none."""
    drugs = [term for term in found if term.kind is TermKind.DRUG]
    ends = [match.start() for match in _SENTENCE_END.finditer(plain)] + [len(plain)]
    owners = []
    for amount in amounts:
        if amount.kind is not QuantityKind.DOSE or not drugs:
            owners.append("")
            continue
        end = next(end for end in ends if end >= amount.start)
        start = max((e for e in ends if e < amount.start), default=0)
        here = [drug for drug in drugs if start <= drug.start < end]
        before = [drug for drug in here if drug.end <= amount.start]
        after = [drug for drug in here if drug.start >= amount.end]
        of_it = after and re.fullmatch(r"(?: tablets?)? (?:of )?(?:oral |iv )?", plain[amount.end : after[0].start])
        owners.append(after[0].name if of_it else before[-1].name if before else after[0].name if after else "")
    return owners
