"""A language's data file: prompt templates and category keywords, checked when it is read."""

from __future__ import annotations

import tomllib
from enum import StrEnum
from functools import cache
from importlib import resources

from pydantic import Field, ValidationError

from edgemed.core.errors import UsageError
from edgemed.core.records import Record

DEFAULT_LANGUAGE = "en"


class Category(StrEnum):
    """The five classes of a question of the method paper's equation (1), and the rest."""

    EMERGENCY = "emergency"
    MEDICATION = "medication"
    DIAGNOSIS = "diagnosis"
    TREATMENT = "treatment"
    PREVENTION = "prevention"
    GENERAL = "general"


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


class Language(Record):
    """One language's data file."""

    language: str
    name: str
    version: int
    templates: Templates
    keywords: dict[Category, tuple[str, ...]]


@cache
def language_data(language: str = DEFAULT_LANGUAGE) -> Language:
    """The data of a shipped language, such as "en".

    Raises UsageError for a language that is not shipped, or a damaged file with the field at fault.
    """
    file = resources.files("edgemed.medical") / "languages" / f"{language}.toml"
    if not file.is_file():
        raise UsageError(f"There are no templates for the language {language!r}.", next_step="use: en")
    try:
        return Language.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise UsageError(f"The data file of the language {language!r} is damaged: {error}.") from error
