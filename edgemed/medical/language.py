"""A language's data file: prompt templates, category keywords, cues and danger signs, checked when it is read.

A language is one TOML file named by its code, in `edgemed/medical/languages` or in a folder of the clinic's own
(a file there goes before the shipped one of the same name). The form is described at the head of `languages/en.toml`.
"""

from __future__ import annotations

import re
import tomllib
from enum import StrEnum
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from itertools import product
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from edgemed.core.errors import UsageError
from edgemed.core.records import Record
from edgemed.medical.matching.phrases import VERB_SIGNS, phrase_symbols
from edgemed.medical.reading import read

DEFAULT_LANGUAGE = "en"
_CODE = re.compile(r"[a-z]{2,3}(?:-[a-z0-9]{2,8})*")


class Category(StrEnum):
    """The five classes of a question of the method paper's equation (1), and the rest."""

    EMERGENCY = "emergency"
    MEDICATION = "medication"
    DIAGNOSIS = "diagnosis"
    TREATMENT = "treatment"
    PREVENTION = "prevention"
    GENERAL = "general"


def _checked_phrase(phrase: str) -> str:
    plain = read(phrase).plain
    symbols = [symbol for symbol in phrase_symbols(plain) if symbol != "^"]
    if not symbols:
        raise ValueError(f"{phrase!r} holds no word")
    if {symbols[0], symbols[-1]} & {"*", "?"}:
        raise ValueError(f"{phrase!r} begins or ends with a gap")
    return plain


Phrase = Annotated[str, AfterValidator(_checked_phrase)]


class Templates(Record):
    """The texts of equation (2): P(q) = base + suffix of the category + q."""

    base: str = Field(min_length=1)
    emergency: str = Field(min_length=1)
    medication: str = Field(min_length=1)
    diagnosis: str = Field(min_length=1)
    treatment: str = Field(min_length=1)
    prevention: str = Field(min_length=1)

    def system_text(self, category: Category) -> str:
        """The system message for a category: the base alone for a general question."""
        if category is Category.GENERAL:
            return self.base
        return f"{self.base} {getattr(self, category.value)}"


class Asked(Record):
    """Keywords that say what is asked, by category; they decide before those that name what a question is about."""

    medication: tuple[Phrase, ...] = ()
    diagnosis: tuple[Phrase, ...] = ()
    treatment: tuple[Phrase, ...] = ()
    prevention: tuple[Phrase, ...] = ()
    emergency: tuple[Phrase, ...] = ()
    general: tuple[Phrase, ...] = ()
    nothing: tuple[Phrase, ...] = ()
    """Longer phrases that hold such words without their sense."""
    sentences: tuple[Phrase, ...] = ()
    """Words by which a sentence asks without a question mark."""

    def of(self, category: Category) -> tuple[str, ...]:
        """The phrases of a category."""
        phrases: tuple[str, ...] = getattr(self, category.value)
        return phrases


class Cues(Record):
    """Words that say how to take the others: denied, long ago, imagined, taught, or here and now."""

    clause_words: tuple[Phrase, ...] = ()
    negation: tuple[Phrase, ...] = ()
    negation_wide: tuple[Phrase, ...] = ()
    negation_after: tuple[Phrase, ...] = ()
    not_negation: tuple[Phrase, ...] = ()
    and_words: tuple[Phrase, ...] = ()
    or_words: tuple[Phrase, ...] = ()
    past: tuple[Phrase, ...] = ()
    past_time: tuple[Phrase, ...] = ()
    over: tuple[Phrase, ...] = ()
    hypothetical: tuple[Phrase, ...] = ()
    not_hypothetical: tuple[Phrase, ...] = ()
    general: tuple[Phrase, ...] = ()
    education: tuple[Phrase, ...] = ()
    other_sense: tuple[Phrase, ...] = ()
    patient: tuple[Phrase, ...] = ()
    anyone: tuple[Phrase, ...] = ()
    present: tuple[Phrase, ...] = ()
    present_verbs: tuple[Phrase, ...] = ()


class Sign(Record):
    """A danger sign: rules of which one must hold, and topics, its bare names, that need somebody present as well."""

    sign: str = Field(pattern=r"^[a-z]+(?:-[a-z]+)*$")
    rules: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()


class Age(Record):
    """Words after a number that make it an age, and words before it that make it none ("for 2 months")."""

    days: tuple[Phrase, ...] = ()
    weeks: tuple[Phrase, ...] = ()
    months: tuple[Phrase, ...] = ()
    years: tuple[Phrase, ...] = ()
    not_before: tuple[str, ...] = ()


class NumberSign(Record):
    """A measured value that is a danger sign: one of `words`, and within `reach` words after it a number in the bounds.

    A number is in the bounds when it is at least `at_least` and less than `below`. `before`: the number may also stand
    before the words. `units`: one of them must follow the number. `also`: groups that the text must hold too.
    """

    sign: str = Field(pattern=r"^[a-z]+(?:-[a-z]+)*$")
    words: tuple[str, ...] = Field(min_length=1)
    at_least: float | None = None
    below: float | None = None
    units: tuple[str, ...] = ()
    reach: int = Field(default=4, ge=1, le=12)
    before: bool = False
    age_under_months: float | None = None
    age_from_months: float | None = None
    also: str = ""

    @model_validator(mode="after")
    def _has_a_bound(self) -> NumberSign:
        if self.at_least is None and self.below is None:
            raise ValueError("one of at_least and below is needed")
        return self


class Danger(Record):
    """The danger signs of a language; `checked` says whether they were tested against labelled sentences."""

    checked: bool = False
    words: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    not_typos: tuple[str, ...] = ()
    number_words: dict[str, float] = Field(default_factory=dict)
    age: Age = Age()
    sign: tuple[Sign, ...] = ()
    number: tuple[NumberSign, ...] = ()


class VerbPrefixes(Record):
    """What stands before a verb's stem in one word: lists in their order, one of each; "" leaves one out."""

    affirming: tuple[tuple[str, ...], ...] = ()
    denying: tuple[tuple[str, ...], ...] = ()
    affirming_whole: tuple[str, ...] = ()
    denying_whole: tuple[str, ...] = ()

    def by_sign(self) -> dict[str, frozenset[str]]:
        """All prefixes, by the sign of the stems that follow them (`phrases.VERB_SIGNS`)."""
        both = ((self.affirming, self.affirming_whole), (self.denying, self.denying_whole))
        return {
            sign: frozenset(filter(None, (*("".join(parts) for parts in product(*lists)), *whole)))
            for sign, (lists, whole) in zip(VERB_SIGNS, both, strict=True)
            if lists or whole
        }


class Language(Record):
    """One language's data file."""

    language: str
    name: str
    version: int
    apostrophe: Literal["joins", "splits"] = "joins"
    verb_prefixes: VerbPrefixes = VerbPrefixes()
    common_words: frozenset[str] = frozenset()
    """Frequent small words in plain form: by them a question in another language than the chosen one is noticed."""
    templates: Templates
    keywords: dict[Category, tuple[Phrase, ...]]
    asked: Asked = Asked()
    subclasses: dict[Category, dict[str, tuple[Phrase, ...]]] = Field(default_factory=dict)
    cues: Cues = Cues()
    danger: Danger = Danger()

    @property
    def danger_checked(self) -> bool:
        """Whether danger signs are looked for in this language, and were tested."""
        return self.danger.checked

    @property
    def joins(self) -> bool:
        """Whether an apostrophe joins ("can't" is one word) or splits ("l'enfant" is two)."""
        return self.apostrophe == "joins"


def languages(folder: Path | None = None) -> tuple[str, ...]:
    """The codes of all languages, shipped and in the clinic's own `folder`, in order; listed once, then remembered.

    Raises UsageError for a folder that does not exist.
    """
    return _languages(folder)


@cache
def _languages(folder: Path | None) -> tuple[str, ...]:
    shipped = [file.name for file in _shipped_folder().iterdir()]
    if folder is not None and not folder.is_dir():
        raise UsageError(
            f"The folder of language files {folder} does not exist.",
            next_step="make it, or mend [medical] languages in edgemed.toml",
        )
    own = [file.name for file in folder.iterdir()] if folder is not None else []
    return tuple(sorted({name.removesuffix(".toml") for name in (*shipped, *own) if name.endswith(".toml")}))


def language_data(language: str = DEFAULT_LANGUAGE, folder: Path | None = None) -> Language:
    """The data of a language by its code, such as "en"; read once, then remembered.

    Raises UsageError for a language without a file, or a malformed file with the line or the field at fault.
    """
    return _language_data(language, folder)


@cache
def _language_data(language: str, folder: Path | None) -> Language:
    file = _file_of(language, folder)
    try:
        data = Language.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UsageError(f"The language file {file} cannot be read: {error}.", next_step="mend or remove it") from error
    except ValidationError as error:
        raise UsageError(f"The language file {file} is malformed: {_faults(error)}.", next_step="mend it") from error
    if data.language != language:
        raise UsageError(
            f'The language file {file} says language = "{data.language}".', next_step=f'write language = "{language}"'
        )
    if folder is not None and (folder / file.name).is_file():
        _check_rules(data, file)  # a shipped file's rules are held by the tests, and made when they are first needed
    return data


def _file_of(language: str, folder: Path | None) -> Traversable:
    if _CODE.fullmatch(language):
        for place in (folder, _shipped_folder()):
            if place is not None and (file := place / f"{language}.toml").is_file():
                return file
    raise UsageError(f"There is no language {language!r}.", next_step=f"use: {', '.join(languages(folder))}")


def _shipped_folder() -> Traversable:
    return resources.files("edgemed.medical") / "languages"


def _faults(error: ValidationError) -> str:
    """Each fault with its field: "danger.sign.3.rules: Input should be a valid tuple"."""
    return "; ".join(
        f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg'].removeprefix('Value error, ')}"
        for fault in error.errors()
    )


def _check_rules(data: Language, file: Traversable) -> None:
    from edgemed.medical.matching.danger_rules import rules_of

    try:
        rules_of(data)
    except ValueError as error:
        raise UsageError(f"The language file {file} is malformed: {error}.", next_step="mend it") from error
