"""What the words of a question say besides the medicine: what is asked, and which words say nothing of their own.

The lists lie in lists/question_words.toml and lists/intents.toml; English. Another language has no lists, so that its
questions are alike only word by word.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Any, Literal

from pydantic import Field, ValidationError

from edgemed.core.errors import UsageError
from edgemed.core.records import Record


class Role(StrEnum):
    """What a word or phrase does in a question."""

    FILLER = "filler"
    CONNECTOR = "connector"
    NEGATION = "negation"
    MAY = "may"
    SHOULD = "should"
    GIVE = "give"
    INTENT = "intent"
    USUAL_END = "usual_end"


@dataclass(frozen=True, slots=True)
class Phrase:
    """A phrase of the lists: its role and what it stands for."""

    role: Role
    name: str


class Intent(Record):
    """One thing that can be asked for."""

    phrases: tuple[str, ...] = Field(min_length=1)
    absorbs: tuple[str, ...] = ()
    """Words that say nothing more when this is asked."""
    absorbs_intents: tuple[str, ...] = ()
    takes_give: bool = False
    """Whether "given" and "should I give" say nothing more when this is asked."""
    as_words: tuple[str, ...] = ()
    """Intents that, beside this one, only describe the problem."""
    sided: Literal["", "always", "with a drug"] = ""
    """When it matters whether it stands before or after what it is about."""
    same_as: str = ""
    """The intent that asks the same."""
    same_of_drug_in_something: str = ""
    """The intent that asks the same of a medicine in an illness or a person."""


class _Words(Record):
    fillers: tuple[str, ...]
    phrases: tuple[str, ...]
    connectors: tuple[str, ...]
    negations: tuple[str, ...]
    may: tuple[str, ...]
    should: tuple[str, ...]
    give: tuple[str, ...]
    usual: tuple[str, ...]
    usual_end: tuple[str, ...]
    which_dose: tuple[str, ...]


@dataclass(frozen=True)
class QuestionWords:
    """The lists of one language, ready for matching."""

    phrases: Mapping[str, Phrase | None]
    """Words joined by a blank to their phrase; None for what only begins a longer one."""
    intents: Mapping[str, Intent]
    usual: frozenset[str]
    which_dose: frozenset[str]


@cache
def question_words(language: str = "en") -> QuestionWords | None:
    """The lists of a language, None where it has none; raises UsageError for a damaged file, with the field."""
    if language != "en":
        return None
    try:
        words = _Words.model_validate(_read("question_words.toml"))
        intents = {name: Intent.model_validate(entry) for name, entry in _read("intents.toml").items()}
    except ValidationError as error:
        raise UsageError(f"A list of question words is damaged: {error}.", next_step="install edgemed again") from error
    for name, intent in intents.items():
        if unknown := {*intent.absorbs_intents, *intent.as_words, intent.same_as, intent.same_of_drug_in_something} - {
            *intents,
            "",
        }:
            raise UsageError(f"lists/intents.toml: {name} names intents that are not there: {', '.join(unknown)}.")
    phrases: dict[str, Phrase | None] = {}
    groups = [
        (Role.FILLER, "", (*words.fillers, *words.phrases)),
        (Role.CONNECTOR, "", words.connectors),
        (Role.MAY, "may", words.may),
        (Role.SHOULD, "should", words.should),
        (Role.GIVE, "give", words.give),
        (Role.USUAL_END, "", words.usual_end),
        *((Role.INTENT, name, intent.phrases) for name, intent in intents.items()),
        (Role.NEGATION, "", words.negations),
    ]
    for role, name, texts in groups:
        for text in texts:
            _put(phrases, text, Phrase(role, name or text))
    return QuestionWords(phrases, intents, frozenset(words.usual), frozenset(words.which_dose))


def _put(phrases: dict[str, Phrase | None], text: str, phrase: Phrase) -> None:
    form = " ".join(text.replace("-", " ").replace("'", " ").replace("/", " ").split()) if text != "n't" else text
    phrases[form] = phrase
    while " " in form:
        form = form.rpartition(" ")[0]
        phrases.setdefault(form, None)


def _read(name: str) -> dict[str, Any]:
    file = resources.files("edgemed.medical") / "lists" / name
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"The list {name} is damaged: {error}.", next_step="install edgemed again") from error
