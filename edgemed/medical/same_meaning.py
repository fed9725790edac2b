"""The one value under which two wordings of a term count as equal in the clinical key; lists/same_meaning.toml.

The term lists gather what is near; here only what never changes an answer is joined. Any other wording keeps its own
words, in British spelling's American form and without plurals.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from pydantic import ValidationError

from edgemed.core.errors import UsageError
from edgemed.core.records import Record
from edgemed.medical.lexicon import Drug, Lexicon
from edgemed.medical.mentions import TermKind
from edgemed.medical.reading import read
from edgemed.medical.term_forms import american, words_of


class _List(Record):
    forms_matter: tuple[str, ...]
    release_words: tuple[str, ...]
    same: dict[TermKind, dict[str, tuple[str, ...]]]


@dataclass(frozen=True)
class SameMeaning:
    """The lists, ready for look-up by the words of a term."""

    values: dict[tuple[TermKind, str], str]
    forms_matter: frozenset[str]
    release_words: frozenset[str]


@cache
def same_meaning() -> SameMeaning:
    """The shipped lists; raises UsageError for a damaged file, with the field at fault."""
    file = resources.files("edgemed.medical") / "lists" / "same_meaning.toml"
    try:
        data = _List.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise UsageError(
            f"The list same_meaning.toml is damaged: {error}.", next_step="install edgemed again"
        ) from error
    values: dict[tuple[TermKind, str], str] = {}
    for kind, names in data.same.items():
        for name, wordings in names.items():
            for wording in wordings:
                have = values.setdefault((kind, own_words(read(wording).plain)), name)
                if have != name:
                    raise UsageError(f"lists/same_meaning.toml: {wording!r} stands under {have!r} and {name!r}.")
    return SameMeaning(values, frozenset(data.forms_matter), frozenset(data.release_words))


def value_of_term(kind: TermKind, name: str, surface: str, lexicon: Lexicon) -> str:
    """The value of a term: of a drug its generic name, unless its written form says more; `surface` is plain text."""
    if kind is TermKind.DRUG:
        return _drug_value(name, surface, lexicon)
    own = own_words(surface)
    return same_meaning().values.get((kind, own), own)


def _drug_value(name: str, surface: str, lexicon: Lexicon) -> str:
    lists = same_meaning()
    words = words_of(american(surface))
    salts = [word for word in words if word in lexicon.salts and word not in american(name)]
    bare = [word for word in words if word not in salts] or list(words)
    written = " ".join(bare)
    if written != " ".join(words_of(american(name))):
        drug = lexicon.drug(written) or lexicon.drug(" ".join(words))
        if drug is None or drug.name != name or _form_matters(drug, words, lists):
            return f"{name} ({' '.join(words)})"
    return f"{name} {' '.join(salts)}" if salts else name


def _form_matters(drug: Drug, words: tuple[str, ...], lists: SameMeaning) -> bool:
    """True where a brand or a word of release may mean another strength, salt or speed than the plain name."""
    if (lists.release_words - set(words_of(drug.name))).intersection(words):
        return True
    written = " ".join(words)
    return drug.name in lists.forms_matter and not any(" ".join(words_of(name)) == written for name in drug.spellings)


def own_words(plain: str) -> str:
    """The words of a plain text in American spelling, each without its plural ending."""
    return " ".join(singular(word) for word in words_of(american(plain)))


def singular(word: str) -> str:
    """A word without the ending of a regular plural; only that, for other endings change the sense."""
    if len(word) < 5 or not word.endswith("s") or word.endswith(("ss", "us", "is", "ous", "as", "os")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-2] if word.endswith(("sses", "xes", "ches", "shes")) else word[:-1]
