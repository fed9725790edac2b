"""Whether a text may be kept: only when it names nobody, by words that are all known.

It is easier to know every ordinary word than every name. So a text passes when each of its words is in the language's
word list (cache_words/), or in a term of the medical lists; when no word stands in capitals in the middle of a
sentence, but for short forms and medical terms; and when no number looks like a date, a telephone, an address or an
identifier. Whatever is in doubt is refused; that costs a cached answer, never a secret.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

from pydantic import Field, ValidationError

from edgemed.core.errors import UsageError
from edgemed.core.records import Record

PrivateReason = Literal["name", "unknown_word", "date", "address", "identifier", "too_long", "no_word_list"]

LONGEST_CHARACTERS = 20_000
"""A longer text is not looked at, hence not kept."""

_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")
_SENTENCE_END = re.compile(r"[.!?]\W*\s|\n|:\W*\s")
_ADDRESS = re.compile(r"@|\bhttps?:|\bwww\.|\bp\.?\s?o\.?\s?box\b", re.IGNORECASE)
_DATE = re.compile(
    r"\b\d{1,4}([-/.])\d{1,2}\1\d{1,4}\b"
    r"|\b(?:on|since|dated|until|till|by|from)\s+(?:the\s+)?\d{1,2}(?:[/.-]\d{1,2}\b(?!\s*[a-z%])|(?:st|nd|rd|th)\b"
    r"(?!\s*(?:to|and|-|week|day|month|hour|dose|year|trimester|line|centile|percentile)))"
    r"|\b\d{1,2}(?:st|nd|rd|th)?\s+(?:of\s+)?may\b|\bmay\s+\d{1,4}\b(?!\s*[a-z%])"
    r"|\b\d{1,2}(?:st|nd|rd|th)\s+of\b",
    re.IGNORECASE,
)
_YEAR = re.compile(r"(?<![\d.,/])(?:19|20)\d\d(?![\d.,]*\d)")
_DIGITS = re.compile(r"\+?\d(?:[\s().,\u00a0\u2009\u202f-]{0,2}\d)*")
_AFTER_NUMBER = re.compile(r"[\s\u00a0]*(?:(?:-|\u2013|to|/)\s*[\d.,]+\s*)?([^\W\d_]+\d?|%)")
_RATIO = re.compile(r"(?<!\d)1:10[0,. ]*(?![\d])")
_LONGEST_NUMBER = 4
"""Digits of a number without a unit; a longer one may be somebody's."""


class WordFile(Record):
    """cache_words/<code>.toml: what there is to know besides the ordinary words."""

    source: str = Field(min_length=1)
    words: frozenset[str]
    short_forms: frozenset[str]
    units: frozenset[str]
    lettered: frozenset[str]
    titles: frozenset[str]
    soft_titles: frozenset[str]
    persons: frozenset[str]
    naming: frozenset[str]
    mixed_forms: frozenset[str]
    verbs: frozenset[str]
    subjects: frozenset[str]
    given_names: frozenset[str]
    dates: frozenset[str]
    identifiers: frozenset[str]
    streets: frozenset[str]


@dataclass(frozen=True, slots=True)
class Words:
    """The known words of one language."""

    ordinary: frozenset[str]
    surnames: frozenset[str]
    """Ordinary words that are surnames too: with a capital letter they are taken for one."""
    file: WordFile


@dataclass(frozen=True, slots=True)
class _Word:
    text: str
    """As written."""
    plain: str
    gap: str
    """What stands between it and the word before."""
    term: Literal["", "known", "word", "words"]
    """A word of a medical list ("give"), a name of something ("malaria"), or one word of a longer name."""
    begins: bool
    """Whether it is the first word of a sentence."""

    @property
    def has_capital(self) -> bool:
        """True for "Maria" and "HIV"."""
        return self.text[0].isupper()

    @property
    def is_title(self) -> bool:
        """True for "Maria" and "I'm", not for "HIV", "I" and "A"."""
        return self.has_capital and not self.text.isupper()


@cache
def words_of_language(language: str) -> Words | None:
    """The words of a language; None for one without a list. Raises UsageError for a damaged file."""
    folder = resources.files("edgemed.serve") / "cache_words"
    listed, more = folder / f"{language}.txt", folder / f"{language}.toml"
    if not language.isalpha() or not listed.is_file() or not more.is_file():
        return None
    try:
        file = WordFile.model_validate(tomllib.loads(more.read_text(encoding="utf-8")))
        lines = listed.read_text(encoding="utf-8").splitlines()
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise UsageError(f"The word list {language} is damaged: {error}.", next_step="install edgemed again") from error
    words = [line for line in lines if line and not line.startswith("#")]
    surnames = frozenset(word[:-1] for word in words if word.endswith("*"))
    ordinary = frozenset(word.rstrip("*") for word in words) | file.words | {"a", "i"}
    return Words(ordinary - file.given_names, surnames, file)


def private_reason(text: str, words: Words | None) -> PrivateReason | None:
    """Why a text may not be kept; None when it holds nothing of a person that this knows of.

    Never raises, linear in the text.
    """
    if words is None:
        return "no_word_list"
    if len(text) > LONGEST_CHARACTERS:
        return "too_long"
    text = unicodedata.normalize("NFC", text)
    if any(unicodedata.combining(character) or unicodedata.category(character) in _NO_TEXT for character in text):
        return "unknown_word"
    return _private_pattern(text, words) or _private_word(text, words)


_MAY_HAVE_CAPITAL = frozenset(["drug", "drug_class", "condition", "organism", "test"])
"""Kinds of medical terms that people write with a capital letter within a sentence."""
_NO_TEXT = frozenset(["Cs", "Co", "Cn", "Cf"])
"""Unpaired surrogates, private and unassigned characters, invisible marks."""


def _private_pattern(text: str, words: Words) -> PrivateReason | None:
    """What the look of the text's numbers and marks gives away."""
    if _ADDRESS.search(text):
        return "address"
    if _DATE.search(text):
        return "date"
    for match in _YEAR.finditer(text):
        if not _has_unit(text, match.end(), words):
            return "date"
    for match in _DIGITS.finditer(text):
        long = sum(character.isdigit() for character in match.group()) > _LONGEST_NUMBER
        if _RATIO.match(text, max(0, match.start() - 2)):
            continue
        if long and (match.group().startswith("+") or not _has_unit(text, match.end(), words)):
            return "identifier"
    return None


def _has_unit(text: str, place: int, words: Words) -> bool:
    match = _AFTER_NUMBER.match(text, place)
    return match is not None and (match[1] == "%" or match[1].lower() in words.file.units)


def _private_word(text: str, words: Words) -> PrivateReason | None:
    """What the text's words give away, one after the other."""
    shouted = text.upper() == text
    before: _Word | None = None
    number_asked = street_asked = 0
    for word in _words(text, words.file):
        if word.plain in words.file.dates:
            return "date"
        digits = any(character.isdigit() for character in word.text)
        if (digits and number_asked) or (word.plain in words.file.streets and street_asked):
            return "identifier" if digits else "address"
        number_asked = 3 if word.plain in words.file.identifiers else max(0, number_asked - 1)
        street_asked = 4 if digits else max(0, street_asked - 1)
        if reason := _digit_reason(word, words) if digits else _word_reason(word, before, words, shouted):
            return reason
        before = word
    return None


def _words(text: str, file: WordFile) -> Iterator[_Word]:
    """The words of a text, and what the medical lists and their place in the sentence say of them."""
    from edgemed.medical.reading import read
    from edgemed.medical.terms.lexicon import find_terms

    plain = read(text).plain
    terms = iter([term for term in find_terms(plain) if term.listed])
    term = next(terms, None)
    done, before = 0, ""
    for match in _WORD.finditer(text):
        start, end = match.span()
        while term is not None and term.end < end:
            term = next(terms, None)
        kind: Literal["", "known", "word", "words"] = ""
        if term is not None and term.start <= start and end <= term.end:
            whole = (term.start, term.end) == (start, end)
            kind = ("word" if term.kind in _MAY_HAVE_CAPITAL else "known") if whole else "words"
        gap, word = text[done:start], plain[start:end]
        yield _Word(match.group(), word, gap, kind, done == 0 or _ends_sentence(gap, before, file))
        done, before = end, word


def _ends_sentence(gap: str, before: str, file: WordFile) -> bool:
    end = _SENTENCE_END.search(gap)
    return end is not None and not (end.group().startswith(":") and before in file.naming)


def _digit_reason(word: _Word, words: Words) -> PrivateReason | None:
    """A number, a number with its unit, a listed term ("CD4") or "q6h" passes; the rest may be an identifier."""
    if word.term or word.plain.isdigit():
        return None
    match = re.fullmatch(r"(?:x|q)?\d+(?:([^\W\d_]+\d?)(?:\d+[^\W\d_]+)?)?", word.plain)
    return None if match and (match[1] is None or match[1] in words.file.units) else "identifier"


def _word_reason(word: _Word, before: _Word | None, words: Words, shouted: bool) -> PrivateReason | None:
    if _is_name(word, words) or (before is not None and _names_somebody(word, before, words, shouted)):
        return "name"
    if word.term in ("word", "words"):
        return None
    if len(word.plain) == 1 and word.text not in ("a", "i", "I", "A"):
        return None if before is not None and _letter_is_known(word, before, words.file) else "unknown_word"
    if not word.term and not _is_known(word.plain, words):
        return "name" if word.has_capital else "unknown_word"
    if word.begins or not word.is_title or word.plain.startswith("i'") or word.text in words.file.mixed_forms:
        return None
    return "name"


def _is_known(plain: str, words: Words) -> bool:
    file = words.file
    if plain in words.ordinary or plain in file.units or plain in file.short_forms:
        return True
    return plain.removesuffix("'s") in words.ordinary


def _is_name(word: _Word, words: Words) -> bool:
    """A title, a given name, a surname with its capital, a short form written like a name ("Ng", "Art")."""
    plain, file = word.plain, words.file
    if plain in file.titles or (plain in file.given_names and word.term != "words"):
        return True
    if word.has_capital and plain in words.surnames:
        return True
    short = plain not in words.ordinary and (plain in file.short_forms or plain in file.units)
    return short and word.is_title and word.term != "words" and word.text not in file.mixed_forms


def _names_somebody(word: _Word, before: _Word, words: Words, shouted: bool) -> bool:
    """Two words that name somebody together: "Given has", "Dr Addison", "my patient Parkinson"; not "patient HIV"."""
    file = words.file
    if word.plain in file.verbs and before.begins and before.plain not in file.subjects:
        return before.term in ("", "known") and not before.text[-1].isdigit()
    if not word.has_capital or shouted or word.term == "words" or word.text in ("I", "A"):
        return False
    if before.plain in file.soft_titles and word.gap in (" ", ". ", "."):
        return word.gap == " " or len(before.plain) <= 4
    return before.plain in file.persons and word.gap == " " and word.is_title


def _letter_is_known(word: _Word, before: _Word, file: WordFile) -> bool:
    """A unit after a number, or the letter of a plan; any other may be somebody's initial."""
    if before.plain in file.lettered and word.gap == " ":
        return True
    follows = before.text[-1].isdigit() or word.gap == "/" or before.plain in ("degrees", "degree")
    return word.plain in file.units and follows
