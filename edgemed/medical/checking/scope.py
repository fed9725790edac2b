"""Which facts a number of an answer must agree with: those for the condition, patient and route that are spoken of.

What the number's own sentence says goes first, then what the answer said before of the same drug, then the question.
A dimension that nobody speaks of excludes nothing; one that fits no fact leaves none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from edgemed.medical.checking.sources import ROUTE, DoseFact, ReadSources, condition_words, words_in
from edgemed.medical.checking.stated_numbers import Part, Stated, StatedText
from edgemed.medical.quantities.amounts import Amount

_GROUP = re.compile(
    r"\b(?:not|non|never)[ -](?:pregnant|breastfeeding|an? adult)\b"
    r"|(?P<pregnant>\b(?:pregnan(?:t|cy)|expectant|antenatal)\b)"
    r"|(?P<newborn>\b(?:newborns?|neonat(?:es?|al))\b)"
    r"|(?P<infant>\b(?:infants?|bab(?:y|ies))\b)"
    r"|(?P<child>\b(?:child(?:ren)?|pa?ediatric|boys?|girls?|toddlers?|kids?|adolescents?)\b)"
    r"|(?P<adult>\b(?:adults?|wom[ae]n|m[ae]n|elderly)\b)"
)
_CLAUSE_END = re.compile(r"[,.;:()\n]")
_LOOK_AHEAD = 60
_DENIALS = frozenset({"not", "no", "non", "without"})
_FITS = {
    "pregnant woman": {"pregnant"},
    "newborn": {"newborn", "infant"},
    "infant": {"infant", "child", "newborn"},
    "child": {"child", "infant"},
    "adult": {"adult"},
}


@dataclass(frozen=True, slots=True)
class Scope:
    """What one number is compared with."""

    facts: tuple[DoseFact, ...]
    """The facts in the number's sense, best first; empty when there are none."""
    weight: Fraction | None
    """The patient's weight in kg, where it was told."""


@dataclass(slots=True)
class _Said:
    """What a stretch of text says of the patient and the illness."""

    words: frozenset[str] = frozenset()
    strong: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    routes: frozenset[str] = frozenset()
    ages: tuple[Fraction, ...] = ()
    """Exact ages in months."""
    weights: tuple[Fraction, ...] = ()
    """Exact weights in kg."""
    bands: frozenset[tuple[Fraction, Fraction, str, str]] = field(default_factory=frozenset)


def scopes_of_answer(told: StatedText, asked: StatedText, ready: ReadSources) -> list[Scope]:
    """One scope for each number of the answer, in order; linear in the texts."""
    question = _said(asked, 0, len(asked.reading.plain), asked.numbers, ready)
    question.groups = question.groups or _groups_of_age(question.ages)
    scopes: list[Scope] = []
    earlier = _Said()
    earlier_drug = ""
    numbers = list(told.numbers)
    place = 0
    while place < len(numbers):
        index = numbers[place].sentence
        last = place
        while last < len(numbers) and numbers[last].sentence == index:
            last += 1
        here = numbers[place:last]
        said = _said(told, *told.sentences[index], here, ready)
        known: dict[tuple[str, frozenset[str]], tuple[DoseFact, ...]] = {}
        groups = _groups_at(told.reading.plain, told.sentences[index], here)
        for number, group in zip(here, groups, strict=True):
            before = earlier if number.drug == earlier_drug else _Said()
            key = (number.drug, group)
            if key not in known:
                known[key] = _facts(number.drug, here, group, (said, before, question), ready)
            weight = (said.weights or before.weights or question.weights or (None,))[0]
            scopes.append(Scope(known[key], weight))
        earlier, earlier_drug = _carried(said, groups[-1], earlier), here[-1].drug
        place = last
    return scopes


def _carried(said: _Said, group: frozenset[str], earlier: _Said) -> _Said:
    """What holds for the next sentence about the same drug."""
    new_illness = bool(said.strong)
    return _Said(
        words=said.words if new_illness else said.words | earlier.words,
        strong=said.strong or earlier.strong,
        groups=group or earlier.groups,
        routes=said.routes or earlier.routes,
        ages=said.ages or earlier.ages,
        weights=said.weights or earlier.weights,
        bands=said.bands or earlier.bands,
    )


def _said(text: StatedText, start: int, end: int, numbers: Sequence[Stated], ready: ReadSources) -> _Said:
    plain = text.reading.plain[start:end]
    words = words_in(plain)
    patient = [number.amount for number in numbers if number.part is Part.PATIENT]
    return _Said(
        words=words,
        strong=(words & ready.strong) | condition_words(text, ready.lexicon, start, end),
        groups=frozenset(match.lastgroup for match in _GROUP.finditer(plain) if match.lastgroup),
        routes=frozenset(match.lastgroup for match in ROUTE.finditer(plain) if match.lastgroup),
        ages=tuple(a.low for a in patient if _is_exact(a) and a.unit == "month"),
        weights=tuple(a.low for a in patient if _is_exact(a) and a.unit == "kg"),
        bands=frozenset(map(_band, (number.amount for number in numbers))),
    )


def _is_exact(amount: Amount) -> bool:
    return amount.low == amount.high and amount.comparator in ("", "~")


def _band(amount: Amount) -> tuple[Fraction, Fraction, str, str]:
    return amount.low, amount.high, amount.unit, amount.comparator


def _groups_of_age(ages: Sequence[Fraction]) -> frozenset[str]:
    if not ages:
        return frozenset()
    months = ages[0]
    bounds = ((1, "newborn"), (12, "infant"), (18 * 12, "child"))
    return frozenset({next((group for bound, group in bounds if months < bound), "adult")})


def _groups_at(plain: str, sentence: tuple[int, int], numbers: Sequence[Stated]) -> list[frozenset[str]]:
    """The patients that each number is for: "500 mg for adults", "adults: 500 mg"; else as the number before."""
    groups: list[frozenset[str]] = []
    mentions = [match for match in _GROUP.finditer(plain, *sentence) if match.lastgroup]
    start = sentence[0]
    doses = [number.amount.start for number in numbers if number.part is Part.DOSE]
    current: frozenset[str] = frozenset()
    first = next_dose = 0
    for number in numbers:
        amount = number.amount
        while first < len(mentions) and mentions[first].end() <= start:
            first += 1
        before = set()
        mention = first
        while mention < len(mentions) and mentions[mention].start() < amount.start:
            before.add(mentions[mention].lastgroup or "")
            mention += 1
        while next_dose < len(doses) and doses[next_dose] <= amount.start:
            next_dose += 1
        following = doses[next_dose] if next_dose < len(doses) else sentence[1]
        clause = _CLAUSE_END.search(plain, amount.end, min(following, amount.end + _LOOK_AHEAD))
        reach = clause.start() if clause else min(following, amount.end + _LOOK_AHEAD)
        after = mentions[mention] if mention < len(mentions) and mentions[mention].start() < reach else None
        if after and number.part is Part.DOSE:
            current = frozenset({after.lastgroup or ""})
            start = after.end()
        elif before:
            current = frozenset(before)
            start = amount.end if number.part is Part.DOSE else start
        groups.append(current)
    return groups


def _facts(
    drug: str,
    numbers: Sequence[Stated],
    group: frozenset[str],
    said: tuple[_Said, _Said, _Said],
    ready: ReadSources,
) -> tuple[DoseFact, ...]:
    """The facts of a drug, and of those that share its sentence, in the sense of what was said; best first."""
    drugs = dict.fromkeys([drug, *(number.drug for number in numbers if number.drug != drug)])
    here, before, question = said
    groups = group or before.groups or question.groups
    routes = here.routes or before.routes or question.routes
    strong = here.strong or before.strong or question.strong
    words = here.words | (frozenset() if here.strong else before.words if before.strong else question.words)
    bands = here.bands | before.bands | question.bands
    ages = here.ages or before.ages or question.ages
    weights = here.weights or before.weights or question.weights
    fitting = [
        fact
        for name in drugs
        for fact in ready.facts.get(name, ())
        if (name == drug or any(number.drug == drug for number in fact.numbers))
        and (not groups or groups & _FITS[fact.dose.group])
        and (not routes or not fact.route or fact.route in routes)
        and (not strong or not fact.strong or strong & fact.strong)
        and _fits_patient(fact, ages, weights)
    ]
    if not fitting:
        return ()
    scores = [_score(fact, words, groups, bands) for fact in fitting]
    best = max(scores)
    return tuple(fact for fact, score in zip(fitting, scores, strict=True) if score == best)


def _score(
    fact: DoseFact, words: frozenset[str], groups: frozenset[str], bands: frozenset[tuple[Fraction, Fraction, str, str]]
) -> int:
    """How much of a fact's condition and band was said; its own group counts before one that also fits."""
    own_group = fact.dose.group.split()[0] in groups
    same_bands = sum(_band(band) in bands for band in fact.bands)
    unsaid = _DENIALS & fact.detail - words if (fact.detail - _DENIALS) & words else ()
    return len(fact.words & words) + 3 * same_bands + 2 * own_group - len(unsaid)


def _fits_patient(fact: DoseFact, ages: Sequence[Fraction], weights: Sequence[Fraction]) -> bool:
    for band in fact.bands:
        told = ages if band.unit == "month" else weights if band.unit == "kg" else ()
        if told and not any(_holds(band, value) for value in told):
            return False
    return True


def _holds(band: Amount, value: Fraction) -> bool:
    """Whether an exact age or weight lies in a band; "2 to 5 years" ends before the sixth birthday."""
    if value in (band.low, band.high):
        return band.comparator not in ("<", ">") or band.low != band.high
    if band.unit == "month" and band.low != band.high and band.high % 12 == 0 and band.low % 12 == 0:
        return band.low <= value < band.high + 12
    if band.comparator in ("<", "<="):
        return value < band.high
    if band.comparator in (">", ">="):
        return value > band.low
    return band.low <= value <= band.high
