"""The one value under which two wordings of a term count as equal in the clinical key; lists/same_meaning.toml.

The term lists gather what is near; here only what never changes an answer is joined. Any other wording keeps its own
words, in British spelling's American form and without plurals.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from pydantic import ValidationError

from edgemed.core.errors import UsageError
from edgemed.core.records import Record
from edgemed.medical.mentions import TermKind
from edgemed.medical.reading import read
from edgemed.medical.terms.lexicon import Lexicon
from edgemed.medical.terms.term_forms import american, sound_of, words_of


class _List(Record):
    plain_brands: tuple[str, ...]
    same: dict[TermKind, dict[str, tuple[str, ...]]]


@dataclass(frozen=True)
class SameMeaning:
    """The lists, ready for look-up by the words of a term."""

    values: dict[tuple[TermKind, str], str]
    plain_brands: frozenset[str]
    """Brands that are the generic medicine and no product of their own."""


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
    return SameMeaning(values, frozenset(data.plain_brands))


_ONE_OR_BOTH = (TermKind.BODY_SITE, TermKind.FINDING, TermKind.CONDITION)
_PAIRED = re.compile(
    r"\b(?:eyelid|ear|eye|hand|arm|leg|knee|hip|ankle|wrist|elbow|shoulder|lung|kidney|breast|nipple|ovarie|testicle|joint|"
    r"limb|finger|toe|calve)s\b|\bfeet\b|\btestes\b"
)
"""Parts of the body of which there are two or more, in the plural."""


def value_of_term(kind: TermKind, name: str, surface: str, lexicon: Lexicon) -> str:
    """The value of a term: of a drug its generic name, unless its written form says more; `surface` is plain text."""
    if kind is TermKind.DRUG:
        return _drug_value(name, surface, lexicon)
    own = own_words(surface)
    if kind in _ONE_OR_BOTH and (plural := _PAIRED.search(surface)):
        own = f"{own} ({plural[0]})"  # swelling of both legs is another illness than of one
    return same_meaning().values.get((kind, own), own)


def _drug_value(name: str, surface: str, lexicon: Lexicon) -> str:
    """The generic name where the written one can mean nothing else; otherwise the generic name with the written one."""
    words = words_of(american(surface))
    salts = [word for word in words if word in lexicon.salts and word not in american(name)]
    bare = [word for word in words if word not in salts] or list(words)
    joined = same_meaning().values.get((TermKind.DRUG, own_words(" ".join(bare))))
    if joined or _is_plainly(name, bare, lexicon):
        name = joined or name
        return f"{name} {' '.join(salts)}" if salts else name
    return f"{name} ({' '.join(words)})"


def _is_plainly(name: str, words: list[str], lexicon: Lexicon) -> bool:
    """True when the words are the generic name, a spelling of it, or a plain brand."""
    written, generic = " ".join(words), words_of(american(name))
    if sorted(words) == sorted(generic):
        return True
    if len(words) == len(generic) and sound_of(written) == sound_of(" ".join(generic)):
        return True
    drug = lexicon.drug(written)
    return drug is not None and drug.name == name and written in drug.brands and written in same_meaning().plain_brands


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
