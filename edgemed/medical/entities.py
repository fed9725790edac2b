"""What a clinical text names: drugs and other terms, and the quantities that belong to them.

`parse` joins three readings of one plain text: the lists (lexicon.py), the negation scopes (negation.py) and the
numbers (quantities.py). Digits inside a listed name ("vitamin B12") are the name's; whatever else holds a digit and
was not understood is reported as unparsed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from edgemed.medical.mentions import Entities, Quantity, Term, TermKind, Unparsed
from edgemed.medical.owners import owned
from edgemed.medical.quantities.amounts import Amount, Unread
from edgemed.medical.quantities.finding import amounts_of
from edgemed.medical.reading import Reading, read
from edgemed.medical.terms.drug_mentions import mentions_of_drugs
from edgemed.medical.terms.lexicon import FoundTerm, Lexicon, find_terms, shipped_lexicon
from edgemed.medical.terms.negation import Scope, scopes_of

MAX_CHARACTERS = 24_000
"""What follows is reported as one unparsed rest, which bounds the time of a hostile text."""

_DIGITS = re.compile(r"\d+")
_STRENGTH = re.compile(r"(?<=[a-z])[ -]\d+(?:\.\d+)?$(?<![a-z][ -][1-9])")


def parse(text: str, language: str = "en", lexicon: Lexicon | None = None) -> Entities:
    """Terms, quantities and unparsed digits of any text, each in the order of the text; never raises.

    `language` chooses the negation words; `lexicon` is the shipped one unless a widened one is given.
    """
    lexicon = lexicon or shipped_lexicon()
    reading = read(text)
    plain = reading.plain[: _cut(reading.plain)]
    found = [_without_strength(plain, term) for term in find_terms(plain, lexicon)]
    found = [term for term in found if term.end - term.start > 1 or term.kind is not TermKind.DRUG]
    written = reading.text if reading.places is None else ""
    found = mentions_of_drugs(written, plain, found)
    named = [(term.start, term.end) for term in found if _has_digit(plain, term)]
    drug_ends = {term.end for term in found if term.kind is TermKind.DRUG}
    amounts, unread = amounts_of(plain, named, drug_ends, written)
    unread += _digits_left(plain, [*amounts, *unread, *found])
    if len(plain) < len(reading.plain):
        unread.append(Unread(len(plain), len(reading.plain), f"more than {MAX_CHARACTERS} characters"))
    unread.sort(key=lambda rest: rest.start)
    of = owned(plain, amounts, found, lexicon.measures, "" if written.isupper() else written)
    return _entities(reading, found, scopes_of(plain, language), of, unread)


def _cut(plain: str) -> int:
    """Where to stop reading: the end, or a blank before MAX_CHARACTERS."""
    if len(plain) <= MAX_CHARACTERS:
        return len(plain)
    blank = plain.rfind(" ", MAX_CHARACTERS - 1000, MAX_CHARACTERS)
    return blank if blank > 0 else MAX_CHARACTERS


def _entities(
    reading: Reading,
    found: Sequence[FoundTerm],
    scopes: Sequence[Scope],
    amounts: Sequence[tuple[Amount, str]],
    unread: Sequence[Unread],
) -> Entities:
    spans: Iterable[FoundTerm | Amount | Unread] = (*found, *(amount for amount, _ in amounts), *unread)
    at = reading.byte_offsets(place for span in spans for place in (span.start, span.end))
    return Entities(
        terms=tuple(_terms(found, scopes, at)),
        quantities=tuple(
            Quantity(a.kind, a.low, a.high, a.unit, at[a.start], at[a.end], a.comparator, owner) for a, owner in amounts
        ),
        unparsed=tuple(Unparsed(at[rest.start], at[rest.end], rest.reason) for rest in unread),
    )


def _without_strength(plain: str, term: FoundTerm) -> FoundTerm:
    """ "dextrose 10" of "dextrose 10%" as "dextrose": the number is a quantity."""
    if term.kind is TermKind.DRUG and (strength := _STRENGTH.search(plain, term.start, term.end)):
        return replace(term, end=strength.start())
    return term


def _has_digit(plain: str, term: FoundTerm) -> bool:
    return _DIGITS.search(plain, term.start, term.end) is not None


def _digits_left(plain: str, spans: Iterable[Amount | Unread | FoundTerm]) -> list[Unread]:
    """Runs of digits that do not lie in the spans."""
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


def _terms(found: Sequence[FoundTerm], scopes: Sequence[Scope], at: dict[int, int]) -> Iterable[Term]:
    """The terms with what the scopes around them say; both come in order, and scopes may overlap."""
    ordered = sorted(scopes, key=lambda scope: scope.start)
    around: list[Scope] = []
    place = 0
    for term in found:
        while place < len(ordered) and ordered[place].start <= term.start:
            around.append(ordered[place])
            place += 1
        around = [scope for scope in around if scope.end >= term.end] if around else around
        status = next((scope.status for scope in around if scope.status != "negated"), "")
        negated = any(scope.status == "negated" for scope in around)
        yield Term(term.kind, term.name, at[term.start], at[term.end], negated, status)
