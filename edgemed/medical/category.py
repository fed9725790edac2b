"""The category of a question: equation (1) of the method paper (arXiv 2505.00025), beside it the danger signs.

f(q) = argmax over c of the number of keywords of c in q. Keywords are phrases (`phrases`), matched longest first on
word boundaries; a denied one ("no fever") does not count; a tie goes to the more urgent class; no hit is `general`.
A long message names many things and asks one. Words that ask ("treatments for") are therefore counted before words that
only name ("biopsy"), and sentences that ask before those that tell: the first of these four that holds any decides.
Danger signs are a flag of their own: three words about doses do not outvote a convulsion.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from edgemed.core.records import Record
from edgemed.medical.danger import HEAD, TAIL, DangerSign, danger_signs_in_any_language
from edgemed.medical.language import DEFAULT_LANGUAGE, Category, Language, language_data
from edgemed.medical.matching.cues import clause_words, cue_matcher, standing_of
from edgemed.medical.matching.phrases import DRUG, Phrases, Words, words_of
from edgemed.medical.mentions import TermKind
from edgemed.medical.reading import Reading, read
from edgemed.medical.terms.lexicon import find_terms

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
    """How many keywords of each class the whole question holds; those that ask decide before the others."""
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

    category: Category | None
    word: int
    start: int
    end: int
    sentence: int
    asks: bool = False
    """It says what is asked ("treatments for"), where others name what the question is about ("biopsy")."""


def classify(question: str, language: str = DEFAULT_LANGUAGE, folder: Path | None = None) -> Classification:
    """The category, subclass, reasons and danger signs of a question; linear in its length, never raises on text."""
    reading = read(_read_part(question))
    words = _words(reading, language, folder)
    found = _keywords(words, reading, language, folder)
    deciding = _deciding(found, asking_sentences(words, reading.plain, language, folder))
    category = _best(deciding)
    return Classification(
        category=category,
        subclass=_subclass(words, category, language, folder),
        scores=_scores(found),
        reasons=_reasons(reading, [keyword for keyword in deciding if keyword.category is category]),
        danger=danger_signs_in_any_language(question, language, folder),
        read_whole=len(question) <= HEAD + TAIL,
        danger_checked=language_data(language, folder).danger_checked,
    )


def category_of(question: str, language: str = DEFAULT_LANGUAGE, folder: Path | None = None) -> Category:
    """The category of a question in `language`; linear in its length, never raises on text."""
    reading = read(_read_part(question))
    words = _words(reading, language, folder)
    found = _keywords(words, reading, language, folder)
    return _best(_deciding(found, asking_sentences(words, reading.plain, language, folder)))


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
    """The keywords that count, those that ask last; names of drugs are such where no keyword speaks of medication."""
    denied = standing_of(words, cue_matcher(language, folder).find(words)).denied
    drugs = list(_drugs(reading, words))
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


def _speaks_of_drugs(found: list[_Keyword]) -> bool:
    return any(each.category in (Category.MEDICATION, Category.PREVENTION) for each in found)


def _found(words: Words, matcher: tuple[Phrases, tuple[Category | None, ...]]) -> list[_Keyword]:
    phrases, classes = matcher
    return [
        _Keyword(
            classes[each.value],
            each.start,
            words.starts[each.start],
            words.ends[each.end - 1],
            words.sentences[each.start],
        )
        for each in phrases.longest(words)
    ]


def _drugs(reading: Reading, words: Words) -> Iterator[_Keyword]:
    """The drugs and kinds of drugs that the head of the text names, but for vaccines and "medicine" itself."""
    place = 0
    for term in find_terms(reading.plain[:_DRUG_SOUGHT]):
        if term.kind not in (TermKind.DRUG, TermKind.DRUG_CLASS) or not term.listed:
            continue
        if term.name != "medicine" and "vaccine" not in term.name:
            place = bisect_left(words.starts, term.start, place)
            if place < len(words) and words.starts[place] == term.start:
                yield _Keyword(Category.MEDICATION, place, term.start, term.end, words.sentences[place])


def _with_drugs(words: Words, drugs: list[_Keyword]) -> Words:
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


def _deciding(found: list[_Keyword], asking: set[int]) -> list[_Keyword]:
    """The keywords that decide: those that ask before others, those in sentences that ask before others."""
    for asks in (True, False):
        pool = [keyword for keyword in found if keyword.asks is asks]
        pool = [keyword for keyword in pool if keyword.sentence in asking] or pool
        if pool:
            return pool
    return []


def _scores(found: list[_Keyword]) -> dict[Category, int]:
    """How many keywords of each class there are; one that both asks and names counts once."""
    scores = dict.fromkeys(PRIORITY, 0)
    asked = {(keyword.category, place) for keyword in found if keyword.asks for place in (keyword.start, -keyword.end)}
    for keyword in found:
        same = {(keyword.category, keyword.start), (keyword.category, -keyword.end)} & asked
        if keyword.category in scores and (keyword.asks or not same):
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
