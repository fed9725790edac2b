"""The category of a question: equation (1) of the method paper (arXiv 2505.00025).

f(q) = argmax over c of the number of tokens of q that are keywords of c. Keywords of several words are
matched longest first and on word boundaries; a tie goes to the more urgent class; no hit is `general`.
It knows nothing of negation: "no convulsions" counts as an emergency, which errs on the safe side.
"""

from __future__ import annotations

import re
from functools import cache

from edgemed.medical.language import DEFAULT_LANGUAGE, Category, language_data

PRIORITY = (
    Category.EMERGENCY,
    Category.MEDICATION,
    Category.DIAGNOSIS,
    Category.TREATMENT,
    Category.PREVENTION,
)


def category_of(question: str, language: str = DEFAULT_LANGUAGE) -> Category:
    """The category of a question in `language`; linear in its length, never raises on text."""
    scores = category_scores(question, language)
    best = max(PRIORITY, key=lambda category: scores[category])  # max keeps the first of equals: the priority
    return best if scores[best] else Category.GENERAL


def category_scores(question: str, language: str = DEFAULT_LANGUAGE) -> dict[Category, int]:
    """How many keywords of each of the five categories the question holds."""
    pattern, classes = _matcher(language)
    scores = dict.fromkeys(PRIORITY, 0)
    for match in pattern.finditer(question.casefold()):
        for category in classes[match.group()]:
            scores[category] += 1
    return scores


@cache
def _matcher(language: str) -> tuple[re.Pattern[str], dict[str, tuple[Category, ...]]]:
    classes: dict[str, tuple[Category, ...]] = {}
    for category, words in language_data(language).keywords.items():
        for word in words:
            classes[word.casefold()] = (*classes.get(word.casefold(), ()), category)
    longest_first = sorted(classes, key=len, reverse=True)
    return re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, longest_first)) + r")(?!\w)"), classes
