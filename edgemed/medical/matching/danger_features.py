"""The features by which the learned reader of danger signs judges a text: its words and what the rules found in it.

Words are taken in runs of one to three, with a mark where they are denied or distant ("not:convulsions"), numbers by
their size; parts of words of four and five letters see through inflection and slips of the finger. Notions
(`danger_concepts`), alone and in pairs of one sentence, and what the rules found have the same names in every language
("c:blood+much", "rule:bleeding", "cue:PAST"), so that languages teach each other.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from functools import cache, lru_cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from edgemed.medical.matching.cues import CueKind
from edgemed.medical.matching.danger_concepts import concepts_of, measures_by_word
from edgemed.medical.matching.danger_findings import Findings, holds, number_of
from edgemed.medical.matching.danger_rules import danger_rules
from edgemed.medical.matching.linear import Gram, letter_grams, word_grams

RULES = ("rule:", "loose:", "part:")
"""Beginnings of the features that come from the rules of signs."""
SHARED = (*RULES, "cue:", "age:", "length:", "c:", "m:")
"""Beginnings of the features that all languages share."""
PIECE = 60
"""Words that are judged together; a longer text is judged in pieces, by the most alarming."""
MOST_PIECES = 6
"""So many pieces of a text are judged, two thirds of them from its beginning; bounds the time."""
PAIR_REACH = 10
"""Words between two notions of a pair."""
_SIZES = (("0cold", 33.0, 35.5), ("0warm", 36.0, 37.7), ("0fever", 38.0, 43.0))
_NAMES_DIGIT = 2  # "SpO2" is read as two words
_MEASURE_REACH = 3  # words between a number and the word before it that names the measure
_LENGTHS = ((6, "short"), (13, "middle"), (30, "long"))


class Piece(NamedTuple):
    """words[start:end] of a text, with its features and the place of each."""

    start: int
    end: int
    places: dict[str, tuple[int, int]]
    """For each feature of words the words it was first seen in."""
    found: frozenset[str]
    """Features of what the rules found."""


def pieces_of(findings: Findings, language: str, folder: Path | None = None) -> list[Piece]:
    """The pieces of a text with their features; whole sentences as far as they fit; linear."""
    bounds = _bounds(findings)
    found = _found(findings, bounds, signs_of_groups(language, folder))
    pieces = []
    for (start, end), its in zip(bounds, found, strict=True):
        places: dict[str, tuple[int, int]] = {}
        for gram in chain(
            _grams(findings, start, end), _notions(findings, start, end, language), _measured(findings, start, end)
        ):
            places.setdefault(gram.feature, (gram.start, gram.end))
        pieces.append(Piece(start, end, places, frozenset(its)))
    return pieces


def _bounds(findings: Findings) -> list[tuple[int, int]]:
    sentences, n_words = findings.words.sentences, len(findings.words)
    bounds, start = [], 0
    while start < n_words:
        end = min(n_words, start + PIECE)
        if end < n_words and sentences[end] == sentences[end - 1]:
            first = end
            while first > start and sentences[first - 1] == sentences[end]:
                first -= 1
            end = first if first > start else end
        bounds.append((start, end))
        start = end
    if len(bounds) > MOST_PIECES:
        head = 2 * MOST_PIECES // 3
        return bounds[:head] + bounds[head - MOST_PIECES :]
    return bounds


def _mark(findings: Findings, place: int) -> str:
    standing = findings.standing
    if standing.denied[place]:
        return "not:"
    return "far:" if standing.distant[place] else "other:" if standing.elsewhere[place] else ""


def _grams(findings: Findings, low: int, high: int) -> Iterator[Gram]:
    """The runs of words and letters of words[low:high], each within one sentence and one mark."""
    words = findings.words
    start = low
    while start < high:
        mark, end = _mark(findings, start), start + 1
        while end < high and words.sentences[end] == words.sentences[start] and _mark(findings, end) == mark:
            end += 1
        forms = words.forms[start:end]
        yield from word_grams([_sized(form) for form in forms], 3, mark, start)
        yield from letter_grams([form if form.isalpha() else "" for form in forms], 4, 5, f"{mark}#", start)
        start = end


def _sized(form: str) -> str:
    """A number by its size, any other word as it is."""
    if not form[0].isdigit():
        return form
    value = number_of(form, {})
    if value is not None and (len(form) > 2 or value >= _SIZES[-1][1]):
        for name, low, high in _SIZES:
            if low <= value < high:
                return name
    whole, _, part = form.replace(",", ".").partition(".")
    return f"0{min(len(whole), 4)}{'.' if part else ''}"


def _measured(findings: Findings, low: int, high: int) -> Iterator[Gram]:
    """The measured values of words[low:high], each with its name and size: "m:oxygen:low"."""
    words, measures = findings.words, measures_by_word()
    for place in range(low, high):
        if not words.forms[place][0].isdigit() or (value := number_of(words.forms[place], {})) is None:
            continue
        glued = place > low and words.starts[place] == words.ends[place - 1]
        if glued and value == _NAMES_DIGIT:
            continue
        near = (*range(place - 1, max(low, place - _MEASURE_REACH) - 1, -1), *range(place + 1, min(high, place + 3)))
        for other in near:
            if words.sentences[other] != words.sentences[place]:
                continue
            if (named := measures.get(words.forms[other])) is not None:
                yield Gram(f"m:{named[0]}:{named[1].size_of(value)}", place, place + 1)
                break
        follows = place + 1 < high and words.forms[place + 1][0].isdigit()
        if follows and words.starts[place + 1] - words.ends[place] == 1:
            lower = number_of(words.forms[place + 1], {})
            if lower is not None and (size := _pressure(value, lower)):
                yield Gram(f"m:pressure:{size}", place, place + 2)


def _pressure(upper: float, lower: float) -> str:
    """The size of a blood pressure in mmHg or, as in French notes, in cmHg; "" for what is none."""
    if 5 <= upper <= 25 and 2 <= lower <= 14 and lower < upper:
        upper, lower = 10 * upper, 10 * lower
    if not (40 <= upper <= 260 and 20 <= lower <= 160 and lower < upper):
        return ""
    return "low" if upper < 90 else "high" if upper >= 155 or lower >= 105 else "right"


def _notions(findings: Findings, low: int, high: int, language: str) -> Iterator[Gram]:
    """Each notion of words[low:high] and each pair of two that stand near each other in one sentence."""
    words, concepts = findings.words, concepts_of(language)
    of = {form: concepts.of(form) for form in set(words.forms[low:high])}
    recent: list[tuple[int, str]] = []
    for place in range(low, high):
        names = [_mark(findings, place) + name for name in of[words.forms[place]]]
        if not names:
            continue
        sentence = words.sentences[place]
        recent = [(at, name) for at, name in recent if place - at <= PAIR_REACH and words.sentences[at] == sentence]
        for name in names:
            yield Gram(f"c:{name}", place, place + 1)
            for at, other in recent:
                if other != name:
                    yield Gram(_pair(name, other), at, place + 1)
        recent.extend((place, name) for name in names)


@lru_cache(maxsize=20_000)
def _pair(one: str, other: str) -> str:
    return f"c:{one}+{other}" if one < other else f"c:{other}+{one}"


def _found(
    findings: Findings, bounds: list[tuple[int, int]], signs_of_group: dict[int, frozenset[str]]
) -> list[set[str]]:
    """What the rules found, for each piece."""
    found: list[set[str]] = [{f"length:{_length(end - start)}"} for start, end in bounds]
    starts = [start for start, _ in bounds]

    def at(place: int) -> set[str]:
        piece = bisect_right(starts, place) - 1
        return found[piece] if place < bounds[piece][1] else set()

    for sign, parts in findings.signs.items():
        its = at(parts[0].start)
        its |= {"rule:several"} if "rule:any" in its else set()
        its |= {"rule:any", f"rule:{sign}"}
        if sign in findings.measured:
            its.add("rule:measured")
        if any(part.distant for part in parts):
            its.add("rule:partly-distant")
    loosely: set[str] = set(findings.signs)
    for rule in findings.rules.rules if findings.loose else ():
        if rule.sign not in loosely and findings.loose and (parts := holds(rule, findings.loose)):
            loosely.add(rule.sign)
            at(parts[0].start).update(("loose:any", f"loose:{rule.sign}"))
    for group, hits in findings.hits.of.items():
        for hit in hits if group in signs_of_group else ():
            if not hit.distant:
                at(hit.start).update(f"part:{sign}" for sign in signs_of_group[group])
    for cue in findings.cues:
        at(cue.start).add(f"cue:{CueKind(cue.value).name}")
    for place, months in findings.ages:
        at(place).add("age:newborn" if months < 2 else "age:child" if months < 60 else "age:older")
    return found


def _length(n_words: int) -> str:
    return next((name for limit, name in _LENGTHS if n_words < limit), "very-long")


@cache
def signs_of_groups(language: str, folder: Path | None = None) -> dict[int, frozenset[str]]:
    """For each group that makes up a rule, other than as mere context, the signs it speaks for."""
    signs: dict[int, frozenset[str]] = {}
    for rule in danger_rules(language, folder).rules:
        for group, context in zip(rule.groups, rule.context, strict=True):
            if not context:
                signs[group] = signs.get(group, frozenset()) | {rule.sign}
    return signs
