"""The numeric guard: is each number of an answer supported by a checked fact, a calculation or a cited text?

A number is looked up among the facts of its drug that fit what the answer says of condition, patient and route (where
the answer is silent, what the question says). Its value, unit, per-what and, where given, its frequency must all be the
same fact's. The same drug in the same sense with another value contradicts the source. A number that only the question
holds supports nothing.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from fractions import Fraction

from edgemed.core.records import Record
from edgemed.medical.checking.scope import Scope, scopes_of_answer
from edgemed.medical.checking.sources import (
    CitedText,
    DoseFact,
    ReadSources,
    Source,
    SupportedDose,
    read_sources,
)
from edgemed.medical.checking.stated_numbers import Part, Rate, Stated, StatedText, stated
from edgemed.medical.mentions import QuantityKind
from edgemed.medical.reading import read

__all__ = ["CheckedNumber", "CitedText", "GuardResult", "Source", "SupportedDose", "Verdict", "check_numbers"]


class Verdict(StrEnum):
    """What stands behind a number."""

    FROM_SOURCE = "from_source"
    CONTRADICTS_SOURCE = "contradicts_source"
    REPEATED_FROM_QUESTION = "repeated_from_question"
    UNSUPPORTED = "unsupported"


class CheckedNumber(Record):
    """One number of an answer and what stands behind it."""

    text: str
    start: int
    """First byte in the answer's UTF-8 (an unpaired surrogate counts three)."""
    end: int
    first: int
    """The same places in characters (Unicode code points)."""
    last: int
    """One behind the last character."""
    verdict: Verdict
    source: str = ""
    """Title of the source that supports or contradicts it."""
    source_id: str = ""
    """Id of the fact; "" for a calculation or a cited text."""
    source_says: str = ""
    """What the source says instead, or in full: "15 mg/kg every 6 hours"."""


class GuardResult(Record):
    """All numbers of an answer."""

    numbers: tuple[CheckedNumber, ...]

    @property
    def summary(self) -> dict[str, int]:
        """How many numbers have each verdict, by its name."""
        counts = {verdict.value: 0 for verdict in Verdict}
        for number in self.numbers:
            counts[number.verdict] += 1
        return counts

    @property
    def clean(self) -> bool:
        """Nothing unsupported and nothing that contradicts a source."""
        return not any(number.verdict in _UNCLEAN for number in self.numbers)


_UNCLEAN = (Verdict.UNSUPPORTED, Verdict.CONTRADICTS_SOURCE)


@dataclass(frozen=True, slots=True)
class _Finding:
    verdict: Verdict
    source: str = ""
    source_id: str = ""
    says: str = ""
    form: str = ""
    """The form of the dose that was found: "1:1000 solution"."""


_NOTHING = _Finding(Verdict.UNSUPPORTED)

MAX_CHARACTERS = 30_000
"""So much of an answer, and of a question, is read; the rest of an answer is one unsupported number. No model here
writes as much."""


def check_numbers(answer: str, question: str, sources: Sequence[Source]) -> GuardResult:
    """Each number with a unit in `answer`, in order, with its verdict; linear in the texts, never raises on them.

    Facts that are not verified support nothing. Bare counts and dates are not looked at; what looks like a number and
    cannot be read is unsupported.
    """
    ready = read_sources(sources)
    asked = stated(question[:MAX_CHARACTERS], ready.lexicon)
    drugs = {drug.name for drug in asked.drugs}
    told = stated(answer[:MAX_CHARACTERS], ready.lexicon, drugs.pop() if len(drugs) == 1 else "")
    scopes = scopes_of_answer(told, asked, ready)
    judge = _Judge(ready, {_key(number) for number in asked.numbers})
    spans = []
    for number, scope in zip(told.numbers, scopes, strict=True):
        if _is_checked(number):
            found = judge.finding(number, scope)
            if found.verdict is Verdict.FROM_SOURCE and _is_changed(told, number, found):
                found = _NOTHING
            spans.append((number.amount.start, number.amount.end, found))
    spans += [(start, end, judge.unread(told, start, end)) for start, end in told.unread]
    numbers = [*_checked(told, sorted(spans, key=lambda span: span[:2]))]
    return GuardResult(numbers=(*numbers, *_rest(answer)))


def _rest(answer: str) -> Iterator[CheckedNumber]:
    """What lies behind the part of an answer that is read."""
    rest = answer[MAX_CHARACTERS:]
    if any(character.isdigit() for character in rest):
        start = len(answer[:MAX_CHARACTERS].encode("utf-8", "surrogatepass"))
        yield CheckedNumber(
            text=f"{rest[:40]}…".encode("utf-8", "replace").decode(),
            start=start,
            end=start + len(rest.encode("utf-8", "surrogatepass")),
            first=MAX_CHARACTERS,
            last=len(answer),
            verdict=Verdict.UNSUPPORTED,
        )


def _checked(told: StatedText, spans: Sequence[tuple[int, int, _Finding]]) -> Iterator[CheckedNumber]:
    reading = told.reading
    offsets = reading.byte_offsets(place for start, end, _ in spans for place in (start, end))
    for start, end, found in spans:
        first, last = (start, end) if reading.places is None else (reading.places[start], reading.places[end])
        yield CheckedNumber(
            text=reading.text[first:last].encode("utf-8", "replace").decode(),
            start=offsets[start],
            end=offsets[end],
            first=first,
            last=last,
            verdict=found.verdict,
            source=found.source,
            source_id=found.source_id,
            source_says=found.says,
        )


def _is_checked(number: Stated) -> bool:
    if number.part is Part.OTHER:
        return (bool(number.amount.unit) and number.amount.kind is QuantityKind.MEASURE) or _is_span(number)
    return bool(number.amount.unit)


def _is_span(number: Stated) -> bool:
    """A time such as "within 72 hours", which is neither date nor time of day."""
    return number.amount.kind is QuantityKind.TIME and number.amount.unit in ("min", "day", "month")


_TIMES_BEFORE = re.compile(
    r"\b(?:doubl\w+|tripl\w+|quadrupl\w+|twice|thrice|hal(?:f|ve|ving)|\w{1,12} times|\w{1,12}[- ]?fold"
    r"|\d{1,4} ?[x*\u00d7]) (?:of )?(?:the |this |that |an? )?(?:usual |normal |dose of )?$"
)
_TIMES_AFTER = re.compile(r" ?[x*\u00d7] ?\d{1,6}\b(?! ?(?:/|per|a |an |daily|days?|d\b|weeks?|doses|hourly|h\b))")
_LONG_FRACTION = re.compile(r"\d,\d{4}")
_RATIO = re.compile(r"\b1 ?(?::|in) ?(\d(?:[ ,]?\d){1,6})\b")
_ONE_LIST = re.compile(r" ?(?:,|and|or|&|plus|/) ?")


def _is_changed(told: StatedText, number: Stated, found: _Finding) -> bool:
    """Words beside a source's number that make another one of it, or leave open whose it is: "double the 10 mg/kg",
    "10 mg/kg x 10", "10,0000 mg", 0.3 mL of another solution, "A and B: 10 mg/kg and 15 mg/kg"."""
    plain, start, end = told.reading.plain, number.amount.start, number.amount.end
    if number.part is not Part.DOSE:
        return False
    if _TIMES_BEFORE.search(plain[max(0, start - 40) : start]) or _TIMES_AFTER.match(plain, end):
        return True
    if _LONG_FRACTION.search(plain, start, end):
        return True
    if number.unit == "mL" and (ratios := _ratios(plain[max(0, start - 40) : end + 40])):
        return bool(own := _ratios(read(found.form).plain)) and not own & ratios
    last = bisect_left(told.drugs, start, key=lambda drug: drug.start)
    before = [drug for drug in told.drugs[max(0, last - 2) : last] if drug.start >= told.sentences[number.sentence][0]]
    return (
        len(before) == 2
        and bool(_ONE_LIST.fullmatch(plain[before[0].end : before[1].start]))
        and ":" in plain[before[1].end : start]
    )


def _ratios(plain: str) -> set[str]:
    return {re.sub(r"\D", "", ratio) for ratio in _RATIO.findall(plain)}


def _key(number: Stated) -> tuple[Fraction, Fraction, str]:
    return number.amount.low, number.amount.high, number.unit


class _Judge:
    """Compares numbers with sources."""

    def __init__(self, ready: ReadSources, asked: set[tuple[Fraction, Fraction, str]]) -> None:
        self.ready = ready
        self.asked = asked

    def finding(self, number: Stated, scope: Scope) -> _Finding:
        """The verdict on one number: a source that has it, one that has another, the question, or nothing."""
        facts = scope.facts
        for fact in facts:
            if _supports(fact, number):
                return _Finding(Verdict.FROM_SOURCE, fact.dose.title, fact.dose.id, _says(fact, number), fact.dose.form)
        if (found := self._calculated(number)) or (found := self._cited(number)):
            return found
        for fact in facts:
            if _contradicts(fact, number, scope.weight):
                return _Finding(Verdict.CONTRADICTS_SOURCE, fact.dose.title, fact.dose.id, _says(fact, number))
        if not facts and (found := self._cited_contradiction(number)):
            return found
        return _Finding(Verdict.REPEATED_FROM_QUESTION) if _key(number) in self.asked else _NOTHING

    def unread(self, told: StatedText, start: int, end: int) -> _Finding:
        """The verdict on words that look like a number: a source has them word for word, or nothing has."""
        words = told.reading.plain[start:end]
        for drug in dict.fromkeys(drug.name for drug in told.drugs):
            for fact in self.ready.facts.get(drug, ()):
                if words in fact.unread:
                    return _Finding(Verdict.FROM_SOURCE, fact.dose.title, fact.dose.id, fact.dose.says)
        return _NOTHING

    def _calculated(self, number: Stated) -> _Finding | None:
        """Calculated values name no drug: the person chose what was calculated."""
        for value in self.ready.calculated:
            for other in value.numbers:
                same = (number.amount.low, number.amount.high) == (other.amount.low, other.amount.high)
                if same and number.unit == other.unit and number.amount.comparator == other.amount.comparator:
                    return _Finding(Verdict.FROM_SOURCE, value.title, "", value.text)
        return None

    def _cited(self, number: Stated) -> _Finding | None:
        for cited, text in self.ready.cited:
            for other in text.numbers:
                if other.drug == number.drug and _same(other, number):
                    return _Finding(Verdict.FROM_SOURCE, cited.title, "", _words_of(text, other))
        return None

    def _cited_contradiction(self, number: Stated) -> _Finding | None:
        """A dose or maximum of a drug for which a cited text gives others only."""
        if not number.drug or number.part not in (Part.DOSE, Part.MAXIMUM):
            return None
        for cited, text in self.ready.cited:
            for other in text.numbers:
                if other.drug == number.drug and other.part is number.part and _same_base(other, number):
                    return _Finding(Verdict.CONTRADICTS_SOURCE, cited.title, "", _words_of(text, other))
        return None


def _words_of(text: StatedText, number: Stated) -> str:
    return text.reading.plain[number.amount.start : number.amount.end]


def _supports(fact: DoseFact, number: Stated) -> bool:
    numbers = [other for other in fact.numbers if number.drug in (fact.drug, other.drug)]
    return any(_same(other, number) for other in numbers) or _is_daily_total(fact, number)


def _same(source: Stated, number: Stated) -> bool:
    """The same part of a dose, with equal unit and frequency, and a value inside the source's."""
    if source.part is not number.part or (source.part is Part.OTHER and source.amount.kind != number.amount.kind):
        return False
    if source.part is Part.FREQUENCY:
        return _rate_fits(source, number)
    if source.unit != number.unit or not _comparator_fits(source, number):
        return False
    if source.part is Part.DOSE:
        return _inside(source, number) and _frequency_fits(source, number)
    if source.part is Part.DURATION:
        return _inside(source, number)
    return (source.amount.low, source.amount.high) == (number.amount.low, number.amount.high)


def _inside(source: Stated, number: Stated) -> bool:
    return source.amount.low <= number.amount.low and number.amount.high <= source.amount.high


def _comparator_fits(source: Stated, number: Stated) -> bool:
    if number.part in (Part.MAXIMUM, Part.DURATION):
        return True  # "maximum" and "do not exceed" differ in the sign only
    return number.amount.comparator in ("", "~", source.amount.comparator)


def _frequency_fits(source: Stated, number: Stated) -> bool:
    """Where the answer says how often, the source must say the same."""
    if number.once and source.rate:
        return False
    if number.rate is None:
        return True
    return source.rate is not None and not source.once and _rate_within(source.rate, number.rate)


def _rate_fits(source: Stated, number: Stated) -> bool:
    if source.rate is None or number.rate is None:
        return (source.amount.low, source.amount.high, source.amount.unit) == (
            number.amount.low,
            number.amount.high,
            number.amount.unit,
        )
    return _rate_within(source.rate, number.rate)


def _rate_within(source: Rate, rate: Rate) -> bool:
    return source.base == rate.base and source.low <= rate.low and rate.high <= source.high


def _is_daily_total(fact: DoseFact, number: Stated) -> bool:
    """ "30 mg/kg/day" of a fact that says 15 mg/kg twice daily."""
    if number.part is not Part.DOSE or not number.unit.endswith("/day") or number.drug != fact.drug:
        return False
    for other in fact.numbers:
        rate = other.rate
        if other.part is not Part.DOSE or rate is None or rate.base != "day" or f"{other.unit}/day" != number.unit:
            continue
        if other.amount.low * rate.low <= number.amount.low and number.amount.high <= other.amount.high * rate.high:
            return number.rate is None
    return False


def _contradicts(fact: DoseFact, number: Stated, weight: Fraction | None) -> bool:
    """The fact has this part of the dose, and gives it another value or another "per"."""
    if number.drug != fact.drug or number.part in (Part.PATIENT, Part.OTHER, Part.DETAIL):
        return False
    same_part = [other for other in fact.numbers if other.part is number.part and other.drug == fact.drug]
    if number.part is Part.FREQUENCY:
        return bool(same_part) or any(other.once for other in fact.numbers)
    if number.part is Part.DURATION:
        return bool(same_part)
    if not any(_same_base(other, number) for other in same_part):
        return False
    whole = [replace(other, part=number.part) for other in fact.numbers if other.drug == fact.drug]
    if any(_same(other, number) for other in whole):
        return False  # a maximum named as if it were a dose: not the same sense
    return weight is None or not any(_is_for_weight(other, number, weight) for other in same_part)


def _same_base(source: Stated, number: Stated) -> bool:
    return source.unit.split("/")[0] == number.unit.split("/")[0]


def _is_for_weight(source: Stated, number: Stated, weight: Fraction) -> bool:
    """150 mg where the source says 15 mg/kg and the patient weighs 10 kg: fits, but nobody has checked it."""
    if source.unit != number.unit.replace("/day", "/kg/day") and source.unit != f"{number.unit}/kg":
        return False
    return source.amount.low * weight <= number.amount.low and number.amount.high <= source.amount.high * weight


def _says(fact: DoseFact, number: Stated) -> str:
    if number.part is Part.MAXIMUM and fact.dose.maximum:
        return f"maximum {fact.dose.maximum}"
    if number.part is Part.DURATION and fact.dose.duration:
        return fact.dose.duration
    if number.part is Part.STRENGTH and fact.dose.form:
        return fact.dose.form
    if number.part is Part.PATIENT and fact.dose.detail:
        return fact.dose.detail
    return fact.dose.says
