"""Notions that words of several languages share, read from `weights/danger_concepts.toml`.

"respire", "breathing" and "anapumua" are all the notion `breathe`: what the learned reader of danger signs has learned
from the sentences of one language so serves the others.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources

from pydantic import Field, ValidationError

from edgemed.core.errors import UsageError
from edgemed.core.records import Record
from edgemed.medical.language import language_data

DENIAL = "no"
"""The notion of a verb's denying prefix, in a language that has such."""
_VERB = 6  # letters from which a word with a denying prefix is taken for a verb
_LONGEST = 30  # letters of a word that are looked at


class Measure(Record):
    """A measured value: the words that name it, and its bounds."""

    words: str
    low: float
    """Less is low."""
    from_: float = Field(alias="from")
    to: float
    """From `from` to less than `to` it is as it should be."""
    high: float
    """So much or more is high."""

    def size_of(self, value: float) -> str:
        """ "low", "right" or "high"; "between" for what is none of them."""
        if value < self.low:
            return "low"
        if value >= self.high:
            return "high"
        return "right" if self.from_ <= value < self.to else "between"


class ConceptLists(Record):
    """Of each notion its words by language: "word", "word*" (all that begin so), "~word" (all that hold it)."""

    concepts: Mapping[str, Mapping[str, str]]
    measures: Mapping[str, Measure]


class Concepts:
    """The notions of one language's words."""

    def __init__(self, lists: ConceptLists, language: str, denying: frozenset[str] = frozenset()) -> None:
        self._whole: dict[str, frozenset[str]] = {}
        self._begun: dict[str, frozenset[str]] = {}
        self._held: dict[str, frozenset[str]] = {}
        for name, words in lists.concepts.items():
            for word in words.get(language, "").split():
                kind = self._held if word[0] == "~" else self._begun if word[-1] == "*" else self._whole
                stem = word.strip("~*")
                kind[stem] = kind.get(stem, frozenset()) | {name}
        self._begun_lengths = sorted({len(stem) for stem in self._begun})
        self._held_lengths = sorted({len(stem) for stem in self._held})
        self._denying = tuple(sorted(denying))

    def of(self, form: str) -> tuple[str, ...]:
        """The notions of a word in plain form, in order; () for most words and for numbers."""
        form = form[:_LONGEST]
        found = set(self._whole.get(form, ()))
        for length in self._begun_lengths:
            found |= self._begun.get(form[:length], frozenset()) if length <= len(form) else frozenset()
        for length in self._held_lengths:
            for start in range(len(form) - length + 1):
                found |= self._held.get(form[start : start + length], frozenset())
        if found and self._denying and len(form) >= _VERB and form.startswith(self._denying):
            found.add(DENIAL)
        return tuple(sorted(found))


@cache
def concepts_of(language: str) -> Concepts:
    """The notions of a shipped language's words; of another language none.

    Raises UsageError with the field at fault when the file is damaged.
    """
    return Concepts(_lists(), language, language_data(language).verb_prefixes.by_sign().get("=", frozenset()) - {""})


@cache
def measures_by_word() -> dict[str, tuple[str, Measure]]:
    """For each word that names a measured value the measure's name and bounds, in any language."""
    return {word: (name, measure) for name, measure in _lists().measures.items() for word in measure.words.split()}


@cache
def _lists() -> ConceptLists:
    file = resources.files("edgemed.medical") / "weights" / "danger_concepts.toml"
    try:
        return ConceptLists.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError, ValidationError) as error:
        raise UsageError(f"The file {file} is malformed: {error}.", next_step="install edgemed again") from error
