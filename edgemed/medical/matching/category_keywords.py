"""The keywords of a question, and its category by counting them: equation (1) of the method paper (arXiv 2505.00025).

f(q) = argmax over c of the number of keywords of c in q. Keywords are phrases (`phrases`), matched longest first on
word boundaries; a denied one ("no fever") does not count; a tie goes to the more urgent class; no hit is `general`.
A long message names many things and asks one. Words that ask ("treatments for") are therefore counted before words that
only name ("biopsy"), and sentences that ask before those that tell: the first of these four that holds any decides.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from edgemed.medical.language import Category, Language, language_data
from edgemed.medical.matching.cues import clause_words, cue_matcher, standing_of
from edgemed.medical.matching.phrases import DRUG, Phrases, Words, words_of
from edgemed.medical.mentions import TermKind
from edgemed.medical.reading import Reading
from edgemed.medical.terms.lexicon import FoundTerm, find_terms

PRIORITY = (
    Category.EMERGENCY,
    Category.MEDICATION,
    Category.DIAGNOSIS,
    Category.TREATMENT,
    Category.PREVENTION,
)
_TERMS_SOUGHT = 20_000  # characters in which drugs and other terms are looked for


@dataclass(frozen=True, slots=True)
class Keyword:
    """A keyword found: its class, and its place in the plain text."""

    category: Category | None
    word: int
    start: int
    end: int
    sentence: int
    asks: bool = False
    """It says what is asked ("treatments for"), where others name what the question is about ("biopsy")."""


@dataclass(frozen=True, slots=True)
class ReadQuestion:
    """A question read: its words, terms and keywords, and what it asks."""

    reading: Reading
    words: Words
    terms: list[FoundTerm]
    """Of the question's head."""
    keywords: list[Keyword]
    """Those that count, those that ask last."""
    asking: set[int]
    """The numbers of the sentences that ask."""

    @property
    def deciding(self) -> list[Keyword]:
        """The keywords that decide: those that ask before others, those in sentences that ask before others."""
        return _deciding(self.keywords, self.asking)


def read_question(reading: Reading, language: str, folder: Path | None) -> ReadQuestion:
    """What a question holds, by the lists of a language; linear."""
    words = _words(reading, language, folder)
    terms = find_terms(reading.plain[:_TERMS_SOUGHT])
    keywords = _keywords(words, terms, language, folder)
    return ReadQuestion(reading, words, terms, keywords, asking_sentences(words, reading.plain, language, folder))


def _words(reading: Reading, language: str, folder: Path | None) -> Words:
    data = language_data(language, folder)
    return words_of(reading.plain, joins=data.joins, clause_words=clause_words(data))


def _keywords(words: Words, terms: list[FoundTerm], language: str, folder: Path | None) -> list[Keyword]:
    """The keywords that count, those that ask last; names of drugs are such where no keyword speaks of medication."""
    denied = standing_of(words, cue_matcher(language, folder).find(words)).denied
    drugs = list(_drugs(terms, words))
    found = [each for each in _found(words, _matcher(language, folder)) if not denied[each.word]]
    if drugs and not _speaks_of_drugs(found):
        found.append(drugs[0])
    asked = _found(_with_drugs(words, drugs), _asked_matcher(language, folder))
    treats = any(each.category is Category.TREATMENT for each in asked)
    if language_data(language, folder).asked.medication and not treats and not _speaks_of_drugs(asked):
        ends = [each.end for each in asked]
        for drug in drugs:
            place = bisect_left(ends, drug.end)
            if place == len(asked) or asked[place].start > drug.start:
                asked.append(drug)
                break
    return found + [replace(each, asks=True) for each in asked if each.category is not None]


def _speaks_of_drugs(found: list[Keyword]) -> bool:
    return any(each.category in (Category.MEDICATION, Category.PREVENTION) for each in found)


def _found(words: Words, matcher: tuple[Phrases, tuple[Category | None, ...]]) -> list[Keyword]:
    phrases, classes = matcher
    return [
        Keyword(
            classes[each.value],
            each.start,
            words.starts[each.start],
            words.ends[each.end - 1],
            words.sentences[each.start],
        )
        for each in phrases.longest(words)
    ]


def _drugs(terms: list[FoundTerm], words: Words) -> Iterator[Keyword]:
    """The drugs and kinds of drugs that the head of the text names, but for vaccines and "medicine" itself."""
    place = 0
    for term in terms:
        if term.kind not in (TermKind.DRUG, TermKind.DRUG_CLASS) or not term.listed:
            continue
        if term.name != "medicine" and "vaccine" not in term.name:
            place = bisect_left(words.starts, term.start, place)
            if place < len(words) and words.starts[place] == term.start:
                yield Keyword(Category.MEDICATION, place, term.start, term.end, words.sentences[place])


def _with_drugs(words: Words, drugs: list[Keyword]) -> Words:
    """The words with each drug's name as the one word `{drug}`."""
    changed = Words([], [], [], [], [])
    ends = {drug.start: drug.end for drug in drugs}
    inside = 0
    for form, start, end, sentence, clause in zip(
        words.forms, words.starts, words.ends, words.sentences, words.clauses, strict=True
    ):
        if start < inside:
            changed.ends[-1] = end
            continue
        inside = ends.get(start, 0)
        changed.forms.append(DRUG if inside else form)
        changed.starts.append(start)
        changed.ends.append(end)
        changed.sentences.append(sentence)
        changed.clauses.append(clause)
    return changed


def asking_sentences(words: Words, plain: str, language: str, folder: Path | None) -> set[int]:
    """The numbers of the sentences that ask: a question mark ends them, or they hold words of asking."""
    matcher = _asking_matcher(language, folder)
    asking = {words.sentences[found.start] for found in matcher.find(words, most=1_000)} if matcher else set()
    for place, end in enumerate(words.ends):
        last = place + 1 == len(words)
        if (last or words.sentences[place + 1] != words.sentences[place]) and words.sentences[place] not in asking:
            rest = plain[end : min(end + 40, len(plain) if last else words.starts[place + 1])]
            if "?" in rest or "\u061f" in rest:
                asking.add(words.sentences[place])
    return asking


def _deciding(found: list[Keyword], asking: set[int]) -> list[Keyword]:
    """The keywords that decide: those that ask before others, those in sentences that ask before others."""
    for asks in (True, False):
        pool = [keyword for keyword in found if keyword.asks is asks]
        pool = [keyword for keyword in pool if keyword.sentence in asking] or pool
        if pool:
            return pool
    return []


def keyword_counts(found: list[Keyword]) -> dict[Category, int]:
    """How many keywords of each class there are; one that both asks and names counts once."""
    scores = dict.fromkeys(PRIORITY, 0)
    asked = {(keyword.category, place) for keyword in found if keyword.asks for place in (keyword.start, -keyword.end)}
    for keyword in found:
        same = {(keyword.category, keyword.start), (keyword.category, -keyword.end)} & asked
        if keyword.category in scores and (keyword.asks or not same):
            scores[keyword.category] += 1
    return scores


def by_count(found: list[Keyword]) -> Category:
    """The category of most keywords; `general` without any, or when more words speak for it than for each other."""
    scores = keyword_counts(found)
    best = max(PRIORITY, key=lambda category: scores[category])  # max keeps the first of equals: the priority
    general = sum(keyword.category is Category.GENERAL for keyword in found)
    return best if scores[best] and scores[best] >= general else Category.GENERAL


def subclass_of(words: Words, category: Category, language: str, folder: Path | None) -> str:
    """The subclass with the most words; the first in the language file of equals, "" of none."""
    counts = subclass_counts(words, category, language, folder)
    best = max(counts, key=lambda name: counts[name], default="")
    return best if best and counts[best] else ""


def subclass_counts(words: Words, category: Category, language: str, folder: Path | None) -> dict[str, int]:
    """How many words each subclass of a category has, in the order of the language file."""
    matcher, names = _subclass_matcher(category, language, folder)
    counts = dict.fromkeys(names, 0)
    for found in matcher.longest(words) if matcher else ():
        counts[names[found.value]] += 1
    return counts


@cache
def _matcher(language: str, folder: Path | None) -> tuple[Phrases, tuple[Category | None, ...]]:
    data = language_data(language, folder)
    classes = (*PRIORITY, Category.GENERAL)
    return _phrases([data.keywords.get(category, ()) for category in classes], data), classes


@cache
def _asked_matcher(language: str, folder: Path | None) -> tuple[Phrases, tuple[Category | None, ...]]:
    data = language_data(language, folder)
    classes = (*PRIORITY, Category.GENERAL)
    lists = [*(data.asked.of(category) for category in classes), data.asked.nothing]
    return _phrases(lists, data), (*classes, None)


@cache
def _asking_matcher(language: str, folder: Path | None) -> Phrases | None:
    data = language_data(language, folder)
    return _phrases([data.asked.sentences], data) if data.asked.sentences else None


def _phrases(lists: Sequence[Iterable[str]], data: Language) -> Phrases:
    """A matcher of several lists; the value of a phrase is the number of its list."""
    values: dict[str, tuple[int, ...]] = {}
    for value, words in enumerate(lists):
        for word in words:
            values[word] = (*values.get(word, ()), value)
    return Phrases(values, joins=data.joins, prefixes=data.verb_prefixes.by_sign())


@cache
def _subclass_matcher(category: Category, language: str, folder: Path | None) -> tuple[Phrases | None, tuple[str, ...]]:
    data = language_data(language, folder)
    lists = data.subclasses.get(category, {})
    return (_phrases(list(lists.values()), data) if lists else None), tuple(lists)
