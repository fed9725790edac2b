"""A handful of terms, until lexicon.py and negation.py are there."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgemed.medical.mentions import TermKind


@dataclass(frozen=True, slots=True)
class FoundTerm:
    """A term of a list at its place in the plain text."""

    kind: TermKind
    name: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Scope:
    """Words that a cue of negation, of the past or of doubt reaches."""

    start: int
    end: int
    status: str


class Lexicon:
    """The lists."""


_NAMES = "amoxicillin paracetamol metronidazole ibuprofen ceftriaxone gentamicin metformin amlodipine artesunate zinc"
_DRUGS = re.compile(rf"\b(?:{_NAMES.replace(' ', '|')}|vitamin (?:a|b12|k))\b")
_NEGATED = re.compile(r"\b(?:no|denies|without|not) ([^.,;]{1,60})")


def find_terms(plain: str, lexicon: Lexicon | None = None) -> list[FoundTerm]:
    """The stand-in's drugs."""
    return [FoundTerm(TermKind.DRUG, match[0], match.start(), match.end()) for match in _DRUGS.finditer(plain)]


def scopes_of(plain: str, language: str = "en") -> list[Scope]:
    """The stand-in's negations."""
    return [Scope(match.start(1), match.end(1), "negated") for match in _NEGATED.finditer(plain)]
