"""The category of a question: equation (1) of the method paper (arXiv 2505.00025), beside it the danger signs.

f(q) = argmax over c of the number of keywords of c in q. Keywords are phrases (`phrases`), matched longest first on
word boundaries; a denied one ("no fever") does not count; a tie goes to the more urgent class; no hit is `general`.
Danger signs are a flag of their own: three words about doses do not outvote a convulsion.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edgemed.core.records import Record
from edgemed.medical.cues import clause_words, cue_matcher, standing_of
from edgemed.medical.danger import HEAD, TAIL, DangerSign, danger_signs
from edgemed.medical.language import DEFAULT_LANGUAGE, Category, language_data
from edgemed.medical.lexicon import find_terms
from edgemed.medical.mentions import TermKind
from edgemed.medical.phrases import Phrases, Words, words_of
from edgemed.medical.reading import Reading, read

PRIORITY = (
    Category.EMERGENCY,
    Category.MEDICATION,
    Category.DIAGNOSIS,
    Category.TREATMENT,
    Category.PREVENTION,
)
MOST_REASONS = 20
"""So many different words are given as reasons; the scores count all."""
_DRUG_SOUGHT = 20_000  # characters in which a drug's name is looked for


class Classification(Record):
    """What a question is about, why, and whether somebody is in danger."""

    category: Category
    subclass: str
    """Within the category, such as "dose"; "" when no word tells."""
    scores: dict[Category, int]
    reasons: tuple[str, ...]
    """The question's words that speak for the category, as written, each once."""
    danger: tuple[DangerSign, ...]
    read_whole: bool
    """False: the question was so long that only its head and its tail were read."""
    danger_checked: bool
    """False: this language's danger signs were not tested, or it has none."""

    @property
    def prompt_category(self) -> Category:
        """The category whose template serves: emergency when there is a danger sign."""
        return Category.EMERGENCY if self.danger else self.category


@dataclass(frozen=True, slots=True)
class _Keyword:
    """A keyword found: its class, and its place in the plain text."""

    category: Category
    start: int
    end: int


def classify(question: str, language: str = DEFAULT_LANGUAGE, folder: Path | None = None) -> Classification:
    """The category, subclass, reasons and danger signs of a question; linear in its length, never raises on text."""
    reading = read(_read_part(question))
    words = _words(reading, language, folder)
    found = _keywords(words, reading, language, folder)
    scores = _scores(found)
    category = _best(found)
    return Classification(
        category=category,
        subclass=_subclass(words, category, language, folder),
        scores=scores,
        reasons=_reasons(reading, [keyword for keyword in found if keyword.category is category]),
        danger=danger_signs(question, language, folder),
        read_whole=len(question) <= HEAD + TAIL,
        danger_checked=language_data(language, folder).danger_checked,
    )


def category_of(question: str, language: str = DEFAULT_LANGUAGE, folder: Path | None = None) -> Category:
    """The category of a question in `language`; linear in its length, never raises on text."""
    reading = read(_read_part(question))
    return _best(_keywords(_words(reading, language, folder), reading, language, folder))


def category_scores(question: str, language: str = DEFAULT_LANGUAGE, folder: Path | None = None) -> dict[Category, int]:
    """How many keywords of each of the five categories the question holds, denied ones left out."""
    reading = read(_read_part(question))
    return _scores(_keywords(_words(reading, language, folder), reading, language, folder))


def _read_part(question: str) -> str:
    """What is read of a question: all of it, or the head and the tail of a very long one."""
    return question if len(question) <= HEAD + TAIL else f"{question[:HEAD]}\n{question[-TAIL:]}"


def _words(reading: Reading, language: str, folder: Path | None) -> Words:
    data = language_data(language, folder)
    return words_of(reading.plain, joins=data.joins, clause_words=clause_words(data))


def _keywords(words: Words, reading: Reading, language: str, folder: Path | None) -> list[_Keyword]:
    """The keywords that count; a drug's name is one where no other word speaks of medication."""
    matcher, classes = _matcher(language, folder)
    found = matcher.longest(words)
    denied = standing_of(words, cue_matcher(language, folder).find(words)).denied if found else bytearray()
    keywords = [
        _Keyword(classes[each.value], words.starts[each.start], words.ends[each.end - 1])
        for each in found
        if not denied[each.start]
    ]
    if not any(keyword.category in (Category.MEDICATION, Category.PREVENTION) for keyword in keywords):
        keywords.extend(_first_drug(reading))
    return keywords


def _first_drug(reading: Reading) -> Iterator[_Keyword]:
    for term in find_terms(reading.plain[:_DRUG_SOUGHT]):
        if term.kind is TermKind.DRUG and term.listed and "vaccine" not in term.name:
            yield _Keyword(Category.MEDICATION, term.start, term.end)
            return


def _scores(found: list[_Keyword]) -> dict[Category, int]:
    scores = dict.fromkeys(PRIORITY, 0)
    for keyword in found:
        if keyword.category in scores:
            scores[keyword.category] += 1
    return scores


def _best(found: list[_Keyword]) -> Category:
    """The category of most keywords; `general` without any, or when more words speak for it than for each other."""
    scores = _scores(found)
    best = max(PRIORITY, key=lambda category: scores[category])  # max keeps the first of equals: the priority
    general = sum(keyword.category is Category.GENERAL for keyword in found)
    return best if scores[best] and scores[best] >= general else Category.GENERAL


def _subclass(words: Words, category: Category, language: str, folder: Path | None) -> str:
    """The subclass with the most words; the first in the language file of equals, "" of none."""
    matcher, names = _subclass_matcher(category, language, folder)
    if matcher is None:
        return ""
    counts = dict.fromkeys(names, 0)
    for found in matcher.longest(words):
        counts[names[found.value]] += 1
    best = max(names, key=lambda name: counts[name])
    return best if counts[best] else ""


def _reasons(reading: Reading, found: list[_Keyword]) -> tuple[str, ...]:
    reasons: dict[str, None] = {}
    for keyword in found:
        start, end = keyword.start, keyword.end
        if reading.places is not None:
            start, end = reading.places[start], reading.places[end]
        reasons[reading.text[start:end].encode("utf-8", "replace").decode()] = None
        if len(reasons) == MOST_REASONS:
            break
    return tuple(reasons)


@cache
def _matcher(language: str, folder: Path | None) -> tuple[Phrases, tuple[Category, ...]]:
    data = language_data(language, folder)
    values: dict[str, tuple[int, ...]] = {}
    classes = (*PRIORITY, Category.GENERAL)
    for value, category in enumerate(classes):
        for word in data.keywords.get(category, ()):
            values[word] = (*values.get(word, ()), value)
    return Phrases(values, joins=data.joins, prefixes=data.verb_prefixes.by_sign()), classes


@cache
def _subclass_matcher(category: Category, language: str, folder: Path | None) -> tuple[Phrases | None, tuple[str, ...]]:
    data = language_data(language, folder)
    lists = data.subclasses.get(category, {})
    values: dict[str, tuple[int, ...]] = {}
    for value, words in enumerate(lists.values()):
        for word in words:
            values[word] = (*values.get(word, ()), value)
    return (Phrases(values, joins=data.joins, prefixes=data.verb_prefixes.by_sign()) if values else None), tuple(lists)
