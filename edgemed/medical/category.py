"""The category of a question: equation (1) of the method paper (arXiv 2505.00025), beside it the danger signs.

f(q) = argmax over c of the sum over the keywords w of c in q. In a language with learned weights each word and run of
words w counts with its own weight for c (`weights/category_<language>.json`, `matching.linear`), the keywords among
them; in the others each keyword counts one (`matching.category_keywords`), and so it does where the two best classes of
the weighted sum are nearly equal. Danger signs are a flag of their own: three words about doses do not outvote a
convulsion.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import cache
from pathlib import Path

from edgemed.core.errors import UsageError
from edgemed.core.records import Record
from edgemed.medical.danger import DangerSign, danger_signs_in_any_language
from edgemed.medical.language import DEFAULT_LANGUAGE, Category, language_data
from edgemed.medical.matching.category_features import Features, category_features
from edgemed.medical.matching.category_keywords import (
    PRIORITY,
    ReadQuestion,
    by_count,
    keyword_counts,
    read_question,
    subclass_of,
)
from edgemed.medical.matching.linear import LinearWeights, shipped_weights, weights_in
from edgemed.medical.reading import Reading, read

__all__ = ["PRIORITY", "Classification", "category_by_count", "category_of", "category_scores", "classify"]

MARGIN = 0.05
"""Where the two best classes are less than this apart in probability, counting decides between them."""
READ_HEAD, READ_TAIL = 4_000, 1_000
"""Characters of a long question that are read for its category; for danger signs more are (`danger`)."""
MOST_REASONS = 20
"""So many different words are given as reasons; the scores count all."""
_LEAST_REASON = 0.1  # of the greatest: what adds less to the category is no reason for it


class Classification(Record):
    """What a question is about, why, and whether somebody is in danger."""

    category: Category
    subclass: str
    """Within the category, such as "dose"; "" when no word tells."""
    scores: dict[Category, int]
    """How many keywords of each class the whole question holds. In a language with learned weights these are one
    ground among others, and the category need not be that of the greatest count."""
    reasons: tuple[str, ...]
    """The question's words that speak most for the category, as written, each once."""
    danger: tuple[DangerSign, ...]
    read_whole: bool
    """False: the question was so long that only its head and its tail were read for the category."""
    danger_checked: bool
    """False: this language's danger signs were not tested, or it has none."""

    @property
    def prompt_category(self) -> Category:
        """The category whose template serves: emergency when there is a danger sign."""
        return Category.EMERGENCY if self.danger else self.category


def classify(question: str, language: str = DEFAULT_LANGUAGE, folder: Path | None = None) -> Classification:
    """The category, subclass, reasons and danger signs of a question; linear in its length, never raises on text.

    Raises UsageError for a language without a file, and for a malformed file of a language or of weights.
    """
    found = read_question(read(read_part(question)), language, folder)
    category, features, weights = _decided(found, language, folder)
    return Classification(
        category=category,
        subclass=subclass_of(found.words, category, language, folder),
        scores=keyword_counts(found.keywords),
        reasons=_reasons(found, category, features, weights, language, folder),
        danger=danger_signs_in_any_language(question, language, folder),
        read_whole=len(question) <= READ_HEAD + READ_TAIL,
        danger_checked=language_data(language, folder).danger_checked,
    )


def category_of(question: str, language: str = DEFAULT_LANGUAGE, folder: Path | None = None) -> Category:
    """The category of a question in `language`; linear in its length, never raises on text."""
    return _decided(read_question(read(read_part(question)), language, folder), language, folder)[0]


def category_by_count(question: str, language: str = DEFAULT_LANGUAGE, folder: Path | None = None) -> Category:
    """The category by equation (1) as it was published, each keyword counting one, whatever weights there are."""
    return by_count(read_question(read(read_part(question)), language, folder).deciding)


def category_scores(question: str, language: str = DEFAULT_LANGUAGE, folder: Path | None = None) -> dict[Category, int]:
    """How many keywords of each of the five categories the question holds, denied ones left out."""
    return keyword_counts(read_question(read(read_part(question)), language, folder).keywords)


def weights_of(language: str, folder: Path | None = None) -> LinearWeights | None:
    """The learned weights of a language's categories, read once; None where it has none.

    A language file of the clinic's own takes `category_<language>.json` beside it, never the shipped weights, which
    were learned with other lists. Raises UsageError for a malformed file, with the field at fault.
    """
    return _weights_of(language, folder)


@cache
def _weights_of(language: str, folder: Path | None) -> LinearWeights | None:
    name = f"category_{language}"
    weights = shipped_weights(name)
    if folder is not None and (folder / f"{language}.toml").is_file():
        own = folder / f"{name}.json"
        weights = weights_in(own) if own.is_file() else None
    if weights and (strange := [given for given in weights.classes if given not in set(Category)]):
        raise UsageError(
            f"The weights {name}.json are malformed: classes: {strange[0]!r} is no category.",
            next_step=f"use: {', '.join(Category)}",
        )
    return weights


def read_part(question: str) -> str:
    """What is read of a question for its category: all of it, or the head and the tail of a very long one."""
    return question if len(question) <= READ_HEAD + READ_TAIL else f"{question[:READ_HEAD]}\n{question[-READ_TAIL:]}"


def _decided(
    found: ReadQuestion, language: str, folder: Path | None
) -> tuple[Category, Features | None, LinearWeights | None]:
    """The category; with the features and weights that it follows from, None where counting decided."""
    counted = by_count(found.deciding)
    weights = weights_of(language, folder)
    if weights is None or not found.words.forms:
        return counted, None, None
    features = category_features(found, language, folder)
    shares = weights.probabilities(features.values)
    best, *others = sorted(shares, key=lambda name: -shares[name])
    if others and counted == others[0] and shares[best] - shares[others[0]] < MARGIN:
        return counted, None, None
    return Category(best), features, weights


def _reasons(
    found: ReadQuestion,
    category: Category,
    features: Features | None,
    weights: LinearWeights | None,
    language: str,
    folder: Path | None,
) -> tuple[str, ...]:
    """The words that speak most for the category, in their order: by their weights, or the keywords that decided."""
    if features is None or weights is None:
        spans = [(each.start, each.end) for each in found.deciding if each.category is category]
    else:
        spans = _weightiest(found, weights.contributions(features.values, category.value), features, language, folder)
    return _as_written(found.reading, spans)


def _weightiest(
    found: ReadQuestion, added: dict[str, float], features: Features, language: str, folder: Path | None
) -> list[tuple[int, int]]:
    """The places whose features add most, none over another, cut to their first and last word that is not common."""
    common, words = language_data(language, folder).common_words, found.words
    telling = [
        (start, end)
        for form, start, end in zip(words.forms, words.starts, words.ends, strict=True)
        if form not in common and len(form) > 1
    ]
    firsts = {start: place for place, (start, _) in enumerate(telling)}
    sums: dict[tuple[int, int], float] = {}
    for feature, value in added.items():
        places = features.places.get(feature, [])
        for place in places:
            if inside := [start for start in _starts(words.starts, *place) if start in firsts]:
                span = inside[0], telling[firsts[inside[-1]]][1]
                sums[span] = sums.get(span, 0.0) + value / len(places)
    chosen: list[tuple[int, int]] = []
    least = _LEAST_REASON * max(sums.values(), default=0.0)
    for span, value in sorted(sums.items(), key=lambda item: -item[1]):
        if value <= max(least, 0.0) or len(chosen) == MOST_REASONS:
            break
        if all(span[1] <= start or end <= span[0] for start, end in chosen):
            chosen.append(span)
    return sorted(chosen)


def _starts(starts: list[int], first: int, last: int) -> list[int]:
    """The starts of the words in a place of the plain text."""
    return starts[bisect_left(starts, first) : bisect_left(starts, last)]


def _as_written(reading: Reading, spans: list[tuple[int, int]]) -> tuple[str, ...]:
    reasons: dict[str, None] = {}
    for start, end in spans:
        if reading.places is not None:
            start, end = reading.places[start], reading.places[end]
        reasons[reading.text[start:end].encode("utf-8", "replace").decode()] = None
        if len(reasons) == MOST_REASONS:
            break
    return tuple(reasons)
