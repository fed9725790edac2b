"""The numbers that a text states, each with its drug, its part in the dose and the frequency that goes with it.

The numeric guard reads answers, questions and sources alike through `stated`, so that one sentence read twice agrees
with itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import TypeVar

from edgemed.medical.mentions import QuantityKind, TermKind
from edgemed.medical.quantities.amounts import Amount
from edgemed.medical.quantities.finding import amounts_of
from edgemed.medical.reading import Reading, read
from edgemed.medical.terms.lexicon import FoundTerm, Lexicon, find_terms

Item = TypeVar("Item", Amount, FoundTerm)


class Part(StrEnum):
    """What a number is in a dose."""

    DOSE = "dose"
    MAXIMUM = "maximum"
    STRENGTH = "strength"
    DETAIL = "detail"
    """An amount in brackets: "(5 g in each buttock)"."""
    FREQUENCY = "frequency"
    DURATION = "duration"
    PATIENT = "patient"
    """An age or a weight."""
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Rate:
    """How often, as times in a base ("day", "month")."""

    low: Fraction
    high: Fraction
    base: str


@dataclass(frozen=True, slots=True)
class Stated:
    """One number of a text, at its place in the plain form."""

    amount: Amount
    part: Part
    drug: str
    """Canonical name; "" when the text does not say."""
    sentence: int
    rate: Rate | None = None
    """Of a frequency its own; of a dose the one that goes with it."""
    once: bool = False
    """A dose said to be given once."""

    @property
    def unit(self) -> str:
        """The unit; "per dose" goes without saying."""
        return self.amount.unit.replace("/dose", "")


@dataclass(frozen=True, slots=True)
class StatedText:
    """A text with its sentences and the numbers in them."""

    reading: Reading
    sentences: tuple[tuple[int, int], ...]
    """Places in the plain form."""
    numbers: tuple[Stated, ...]
    unread: tuple[tuple[int, int], ...]
    """Places of number-like text that was not understood."""
    drugs: tuple[FoundTerm, ...]
    conditions: tuple[FoundTerm, ...]


_SENTENCE_END = re.compile(r"(?<!\b[a-z])(?<!\bno)(?<!\bvs)[.!?](?=[\s)\"]|$)|[;\n\r]")
_BRACKET = re.compile(r"[()\[\]]")
_COLON = re.compile(r":(?!\d)")
_NOT_GIVEN_AFTER = re.compile(
    r"[ -](?:overdos|poison|intoxicat|toxicit|allerg|hypersens|deficien|sensitiv|resist|is not available"
    r"|not available|withdrawal|is unavailable|levels?\b|induced)"
)
_NOT_GIVEN_BEFORE = re.compile(
    r"(?:(?:instead of|rather than|allergic to|not|without|avoid|unlike|together with|prefer\w* to|already on|or) "
    r"|alternative to |not available )$"
)
_DRUG_FOLLOWS = re.compile(
    r" ?(?:(?:tablets?|capsules?|injection|of|oral|iv|im|intravenous|intramuscular|elemental|strength) ?){0,3}"
)
_ONCE = re.compile(r"\b(?:single[ -]dose|one single|once only|only once|one dose only|one-off|stat)\b")
_BULK = re.compile(r"/(?:\d+ )?(?:mL|L|dL|tablet|capsule|puff|vial|ampoule|sachet|drop|spoon|teaspoon|suppository)$")


def stated(text: str, lexicon: Lexicon, drug: str = "") -> StatedText:
    """All numbers of any text; linear, never raises. `drug` is what the text is about before it names one."""
    reading = read(text)
    plain = reading.plain
    terms = find_terms(plain, lexicon)
    drugs = [term for term in terms if term.kind is TermKind.DRUG]
    amounts, unread = amounts_of(plain, [(term.start, term.end) for term in terms], {term.end for term in drugs})
    sentences = _sentences(plain)
    numbers: list[Stated] = []
    carried = drug
    first_amount = first_drug = 0
    for index, (start, end) in enumerate(sentences):
        here, first_amount = _before(amounts, first_amount, end)
        named, first_drug = _before(drugs, first_drug, end)
        if not here and not named:
            continue
        sentence = _Sentence(plain, start, end, named, carried)
        numbers += sentence.numbers(here, index)
        carried = numbers[-1].drug if here else sentence.subject
    return StatedText(
        reading,
        tuple(sentences),
        tuple(numbers),
        tuple((rest.start, rest.end) for rest in unread),
        tuple(drugs),
        tuple(term for term in terms if term.kind is TermKind.CONDITION),
    )


def _before(items: Sequence[Item], first: int, end: int) -> tuple[Sequence[Item], int]:
    """The items from `first` on that begin before a place, and the number of the next."""
    last = first
    while last < len(items) and items[last].start < end:
        last += 1
    return items[first:last], last


def _sentences(plain: str) -> list[tuple[int, int]]:
    places, start = [], 0
    for match in _SENTENCE_END.finditer(plain):
        places.append((start, match.end()))
        start = match.end()
    return [*places, (start, len(plain))]


class _Sentence:
    """Finds whose the numbers of one sentence are."""

    def __init__(self, plain: str, start: int, end: int, drugs: Sequence[FoundTerm], carried: str) -> None:
        self.plain, self.start, self.end = plain, start, end
        self.carried = carried
        self.brackets = [(match.start(), match[0] in "([") for match in _BRACKET.finditer(plain, start, end)]
        self.depths = {drug.start: self._depth(drug.start) for drug in drugs}
        self.drugs = drugs
        self.given = [drug for drug in drugs if self._is_given(drug)]
        self.colons = [match.start() for match in _COLON.finditer(plain, start, end)]

    @property
    def subject(self) -> str:
        """The drug that a sentence without numbers is about."""
        outside = [drug for drug in self.given if not self.depths[drug.start]]
        return outside[0].name if outside else self.carried

    def _depth(self, place: int) -> int:
        depth = 0
        for mark, opens in self.brackets[:40]:
            if mark >= place:
                break
            depth = depth + 1 if opens else max(0, depth - 1)
        return depth

    def _is_given(self, drug: FoundTerm) -> bool:
        after = self.plain[drug.end : drug.end + 24]
        before = self.plain[max(self.start, drug.start - 24) : drug.start]
        return not _NOT_GIVEN_AFTER.match(after) and not _NOT_GIVEN_BEFORE.search(before)

    def numbers(self, amounts: Sequence[Amount], sentence: int) -> list[Stated]:
        depths = [self._depth(amount.start) for amount in amounts]
        parts = [_part(amount, depth) for amount, depth in zip(amounts, depths, strict=True)]
        rates = self._rates(amounts, parts, depths)
        owners = self._owners(amounts, depths)
        once = self._once(amounts, parts)
        return [
            Stated(amount, part, owner, sentence, rate, one)
            for amount, part, owner, rate, one in zip(amounts, parts, owners, rates, once, strict=True)
        ]

    def _owners(self, amounts: Sequence[Amount], depths: Sequence[int]) -> list[str]:
        owners: list[str] = []
        colon = given = 0
        for amount, depth in zip(amounts, depths, strict=True):
            while colon < len(self.colons) and self.colons[colon] < amount.start:
                colon += 1
            while given < len(self.given) and self.given[given].end <= amount.start:
                given += 1
            owners.append(self._owner(amount, depth, given, self.colons[colon - 1] if colon else -1))
        return owners

    def _owner(self, amount: Amount, depth: int, given: int, colon: int) -> str:
        """The drug that follows at once; behind a colon the head's first; else the last one before, at its depth."""
        following = self.given[given] if given < len(self.given) else None
        if following and self._joined(amount.end, following.start):
            return following.name
        before = [drug for drug in self.given[max(0, given - 20) : given] if self.depths[drug.start] <= depth]
        if colon >= 0 and not any(drug.start > colon for drug in before):
            head = [drug for drug in self.given[:20] if drug.end <= colon and not self.depths[drug.start]]
            return head[0].name if head else self.carried
        if before:
            return before[-1].name
        return following.name if following and not self.carried else self.carried or self._any_after(amount)

    def _any_after(self, amount: Amount) -> str:
        return next((drug.name for drug in self.given if drug.start >= amount.end), "")

    def _joined(self, end: int, start: int) -> bool:
        return start - end < 40 and bool(_DRUG_FOLLOWS.fullmatch(self.plain[end:start]))

    def _rates(self, amounts: Sequence[Amount], parts: Sequence[Part], depths: Sequence[int]) -> list[Rate | None]:
        """A frequency's own rate; a dose's from the next frequency before another dose, inside the same brackets."""
        rates: list[Rate | None] = [None] * len(amounts)
        coming: dict[int, Rate] = {}
        for place in range(len(amounts) - 1, -1, -1):
            part, depth = parts[place], depths[place]
            if part is Part.FREQUENCY:
                rates[place] = rate = rate_of(amounts[place])
                if rate:
                    coming[depth] = rate
            elif part in (Part.DOSE, Part.DETAIL):
                rates[place] = coming.pop(depth, None)
        return rates

    def _once(self, amounts: Sequence[Amount], parts: Sequence[Part]) -> list[bool]:
        doses = [place for place, part in enumerate(parts) if part is Part.DOSE]
        once = [False] * len(amounts)
        for number, place in enumerate(doses):
            end = amounts[doses[number + 1]].start if number + 1 < len(doses) else self.end
            once[place] = bool(_ONCE.search(self.plain, amounts[place].end, min(end, amounts[place].end + 60)))
        return once


def _part(amount: Amount, depth: int) -> Part:
    if amount.kind is QuantityKind.FREQUENCY:
        return Part.FREQUENCY
    if amount.kind is QuantityKind.DURATION:
        return Part.DURATION
    if amount.kind in (QuantityKind.AGE, QuantityKind.WEIGHT):
        return Part.PATIENT
    if amount.kind is not QuantityKind.DOSE:
        return Part.OTHER
    if amount.comparator in ("<", "<="):
        return Part.MAXIMUM
    if _BULK.search(amount.unit) and amount.unit.split("/")[0] in ("mg", "IU", "mmol", "mEq"):
        return Part.STRENGTH
    return Part.DETAIL if depth else Part.DOSE


def rate_of(amount: Amount) -> Rate | None:
    """How often an amount of kind frequency is, in times a day where that is certain."""
    low, high, unit = amount.low, amount.high, amount.unit
    if unit.startswith("/"):
        days = {"/day": 1, "/week": 7}.get(unit)
        return Rate(low / days, high / days, "day") if days else Rate(low, high, unit[1:])
    if low <= 0 or high <= 0:
        return None
    day = {"min": 1440, "day": 1}.get(unit)
    return Rate(Fraction(day or 1) / high, Fraction(day or 1) / low, "day" if day else unit)
