"""The features of a question that the learned weights of categories speak of, each with its place in the text.

Names of drugs, conditions and the like stand as {drug}, {condition}, and numbers as #, so that what is learned of one
holds for all. Sentences that ask are kept apart from those that tell. What the keyword lists find, and what equation
(1) makes of it by counting, are features too. Where a question was found (a web form, a data set) is none.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edgemed.medical.matching.category_keywords import (
    PRIORITY,
    ReadQuestion,
    by_count,
    subclass_counts,
)
from edgemed.medical.matching.linear import LONGEST_WORD, word_grams
from edgemed.medical.mentions import TermKind

LONGEST = 3
"""Words of a run in a sentence that asks; of sentences that tell, single words."""
MOST_COUNTED = 3
"""So many keywords of one class are counted: a long message has many."""
_PLACEHOLDERS = {
    TermKind.DRUG: "{drug}",
    TermKind.DRUG_CLASS: "{drugs}",
    TermKind.CONDITION: "{condition}",
    TermKind.FINDING: "{finding}",
    TermKind.ORGANISM: "{organism}",
    TermKind.BODY_SITE: "{site}",
    TermKind.TEST: "{test}",
    TermKind.PROCEDURE: "{procedure}",
}
_FORM_WORDS = ("subject", "message")  # field names of web forms, where a question was found
_LENGTHS = (8, 15, 30, 80)  # words at which the next bucket of length begins


@dataclass(slots=True)
class Features:
    """Features and their values; of those that stand somewhere, the first places in the plain text."""

    values: dict[str, float] = field(default_factory=dict)
    places: dict[str, list[tuple[int, int]]] = field(default_factory=dict)

    def add(self, feature: str, start: int | None = None, end: int = 0) -> None:
        """A feature that is there or not."""
        self.values[feature] = 1.0
        if start is not None:
            self.places.setdefault(feature, [(start, end)])

    def count(self, feature: str, start: int, end: int) -> None:
        """A feature that is counted, up to MOST_COUNTED."""
        places = self.places.setdefault(feature, [])
        if len(places) < MOST_COUNTED:
            places.append((start, end))
            self.values[feature] = float(len(places))


@dataclass(slots=True)
class _Token:
    """A word, or a term's words as one."""

    form: str
    term: str
    """The words of the term, "" for a word."""
    start: int
    end: int
    sentence: int


def category_features(question: ReadQuestion, language: str, folder: Path | None) -> Features:
    """The features of a question; linear in its length."""
    features = Features()
    sentences: dict[int, list[_Token]] = {}
    for token in _tokens(question):
        sentences.setdefault(token.sentence, []).append(token)
    asking = {number for number in sentences if number in question.asking} or set(sentences)
    for number, tokens in sentences.items():
        _add_words(features, tokens, number in asking)
    kinds = _add_terms(features, question, asking)
    _add_keywords(features, question)
    for category in PRIORITY:
        for name, count in subclass_counts(question.words, category, language, folder).items():
            if count:
                features.add(f"subclass:{category.value}.{name}")
    _add_shape(features, question, len(sentences))
    _add_pairs(features, question, asking, kinds)
    return features


def _tokens(question: ReadQuestion) -> Iterator[_Token]:
    words = question.words
    terms: dict[int, tuple[str, int]] = {}
    for term in question.terms:
        if term.listed and term.kind in _PLACEHOLDERS:
            place = bisect_left(words.starts, term.start)
            if place < len(words) and words.starts[place] == term.start:
                terms[place] = _PLACEHOLDERS[term.kind], term.end
    place = 0
    while place < len(words):
        first, form, named = place, words.forms[place][:LONGEST_WORD], ""
        place += 1
        if first in terms:
            form, end = terms[first]
            while place < len(words) and words.starts[place] < end:
                place += 1
            named = " ".join(words.forms[first:place])[: 2 * LONGEST_WORD]
        elif form in _FORM_WORDS:
            continue
        elif form[0].isdigit():
            form = "#"
        yield _Token(form, named, words.starts[first], words.ends[place - 1], words.sentences[first])


def _add_words(features: Features, tokens: list[_Token], asks: bool) -> None:
    """The runs of words of one sentence; "^" and "$" are its ends."""
    if asks:
        ends = [
            _Token("^", "", tokens[0].start, tokens[0].start, 0),
            _Token("$", "", tokens[-1].end, tokens[-1].end, 0),
        ]
        whole = [ends[0], *tokens, ends[1]]
        for gram in word_grams([token.form for token in whole], LONGEST, "asks:"):
            features.add(gram.feature, whole[gram.start].start, whole[gram.end - 1].end)
    for token in tokens:
        if not asks:
            features.add(f"tells:{token.form}", token.start, token.end)
        features.add(f"word:{token.form}", token.start, token.end)
        if token.term:
            features.add(f"term:{token.term}", token.start, token.end)


def _add_terms(features: Features, question: ReadQuestion, asking: set[int]) -> list[str]:
    """Which kinds of terms there are; returns those in sentences that ask."""
    words, asked = question.words, Counter[str]()
    for term in question.terms:
        features.add(f"kind:{term.kind.value}", term.start, term.end)
        place = bisect_left(words.starts, term.start)
        if term.listed and place < len(words) and words.sentences[place] in asking:
            asked[term.kind.value] += 1
            features.add(f"kind asked:{term.kind.value}", term.start, term.end)
    return sorted(asked)


def _add_keywords(features: Features, question: ReadQuestion) -> None:
    for keyword in question.keywords:
        if keyword.category is not None:
            role = "asking" if keyword.asks else "naming"
            features.count(f"{role} keyword:{keyword.category.value}", keyword.start, keyword.end)
    deciding = [keyword for keyword in question.deciding if keyword.category is not None]
    for keyword in deciding:
        features.count(f"deciding keyword:{keyword.category}", keyword.start, keyword.end)
    features.add(f"count:{by_count(deciding).value}")


def _add_shape(features: Features, question: ReadQuestion, sentences: int) -> None:
    features.add(f"length:{_length(question)}")
    features.add(f"sentences:{min(sentences, 5)}")
    features.add(f"asking sentences:{min(len(question.asking), 3)}")


def _length(question: ReadQuestion) -> int:
    return sum(len(question.words) >= bound for bound in _LENGTHS)


def _add_pairs(features: Features, question: ReadQuestion, asking: set[int], kinds: list[str]) -> None:
    """What counting makes of the question, together with how it begins and what it asks about."""
    words, deciding = question.words, [each for each in question.deciding if each.category is not None]
    counted = by_count(deciding).value
    begins = next(
        (
            form[:LONGEST_WORD]
            for form, number in zip(words.forms, words.sentences, strict=True)
            if number in asking and form not in _FORM_WORDS
        ),
        "",
    )
    features.add(f"count+begins:{counted} {begins}")
    features.add(f"count+length:{counted} {_length(question)}")
    for kind in kinds:
        features.add(f"count+kind:{counted} {kind}")
        features.add(f"begins+kind:{begins} {kind}")
    if deciding:
        first = min(deciding, key=lambda keyword: keyword.start)
        features.add(f"first keyword:{first.category}", first.start, first.end)
        features.add(f"count+first:{counted} {first.category}")
    several = sorted({str(keyword.category) for keyword in deciding})
    features.add(f"deciding:{' '.join(several)}")
