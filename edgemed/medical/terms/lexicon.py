"""Medical terms in a plain text: drugs, conditions, findings, tests, patients' states, actions and the like.

The lists lie in lists/*.toml. A term is looked up word by word in one table of all forms, longest first, so that
blanks, dashes, slashes and plurals need no entry of their own; the time is linear in the text. A drug that no list
has is found by its INN stem ("-cillin"), a misspelt one by its sound or by one letter too many
or too few, when that fits exactly one listed drug.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from typing import TypeVar

from pydantic import Field, ValidationError

from edgemed.core.errors import UsageError
from edgemed.core.records import Record
from edgemed.medical.mentions import TermKind
from edgemed.medical.reading import read
from edgemed.medical.terms.term_forms import AFTER_LETTER, JOINS, WORD, forms_of, sound_of, words_of

ListRecord = TypeVar("ListRecord", bound=Record)
Forms = dict[str, tuple["Entry", ...] | None]
"""The words of a form, joined by a blank, to what it names; None when it only begins a longer form."""

_SHORTEST_SLIP = 8
"""Words of fewer letters are not read with a letter too many or too few."""
_SHORTEST_SOUND = 7
"""Shorter words have too many neighbours to be read by ear."""


class TermList(Record):
    """A file of lists: kind -> canonical name -> other names, with the source of the names."""

    source: str = Field(min_length=1)
    terms: dict[TermKind, dict[str, tuple[str, ...]]]


class DrugList(Record):
    """lists/drugs.toml: class -> generic name -> spellings."""

    source: str = Field(min_length=1)
    classes: dict[str, dict[str, tuple[str, ...]]]


class BrandList(Record):
    """lists/brands.toml: generic name -> names it is sold under."""

    source: str = Field(min_length=1)
    brands: dict[str, tuple[str, ...]]


class StemList(Record):
    """lists/stems.toml: what is known of the making of drug names."""

    source: str = Field(min_length=1)
    stems: dict[str, str]
    """INN stem to class."""
    exceptions: tuple[str, ...]
    """Words that end like a stem and are no drug."""
    salts: tuple[str, ...]
    """Words after a drug's name that name its salt or ester."""


class MeasureList(Record):
    """lists/measures.toml: canonical names of what has a value: vital signs and laboratory values."""

    source: str = Field(min_length=1)
    measures: dict[str, tuple[str, ...]]
    also_measured: tuple[str, ...]
    """Terms of other lists that have values too: glucose."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a form names."""

    kind: TermKind
    name: str


_UNKNOWN = (Entry(TermKind.DRUG, ""),)
"""Stands for a word that was not looked at yet."""


@dataclass(frozen=True, slots=True)
class FoundTerm:
    """A term at its place in the plain text."""

    kind: TermKind
    name: str
    start: int
    end: int
    listed: bool = True
    """False where only the stem of a drug's name, or its sound, says what it is."""


@dataclass(frozen=True, slots=True)
class Drug:
    """What is known of a drug."""

    name: str
    drug_class: str
    spellings: tuple[str, ...] = ()
    brands: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lexicon:
    """All terms, ready for `find_terms`."""

    forms: Forms
    drugs: Mapping[str, Drug]
    stems: Mapping[str, str]
    exceptions: frozenset[str]
    salts: frozenset[str]
    measures: frozenset[str]
    """Canonical names of what has a value."""
    sounds: Mapping[str, Entry]
    slips: Mapping[str, Entry]
    """Long drug names with one letter left out, where that names one drug."""
    endings: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "endings", tuple(self.stems))

    def drug(self, name: str) -> Drug | None:
        """The drug that a name, spelling or brand names; None for what is not in the lists."""
        for entry in self.entries(name):
            if entry.kind is TermKind.DRUG:
                return self.drugs.get(entry.name)
        return None

    def entries(self, name: str) -> tuple[Entry, ...]:
        """What a name stands for; () for what is not in the lists."""
        return self.forms.get(" ".join(words_of(read(name).plain))) or ()

    def widened(self, terms: Iterable[tuple[TermKind, str, Iterable[str]]]) -> Lexicon:
        """This lexicon with (kind, canonical name, other names) of a local list; shipped terms keep their meaning."""
        forms = dict(self.forms)
        for kind, name, others in terms:
            canonical = read(name).plain
            for word in (name, *others):
                for form in forms_of(read(word).plain, plural=kind in _WITH_PLURAL):
                    if not forms.get(form):
                        _add(forms, form, Entry(kind, canonical))
        return replace(self, forms=forms)


_TOGETHER = frozenset([TermKind.SEX, TermKind.AGE_BAND])
"""Kinds that one word may have both: "boy"."""
_WITH_PLURAL = frozenset(
    [
        TermKind.DRUG_CLASS, TermKind.CONDITION, TermKind.FINDING, TermKind.TEST, TermKind.PROCEDURE,
        TermKind.BODY_SITE, TermKind.ORGANISM, TermKind.AGE_BAND, TermKind.SEX,
    ]
)  # fmt: skip


def find_terms(plain: str, lexicon: Lexicon | None = None) -> list[FoundTerm]:
    """All terms of a plain text (reading.py) in order, leftmost and longest first; linear, never raises.

    A word of two kinds ("boy": sex and age band) gives one FoundTerm for each at the same place.
    """
    lexicon = lexicon or shipped_lexicon()
    forms, found = lexicon.forms, []
    words = list(WORD.finditer(plain))
    guesses: dict[str, tuple[Entry, ...]] = {}
    entries: tuple[Entry, ...]
    place, count = 0, len(words)
    while place < count:
        match = words[place]
        word = match.group()
        entries, last = _longest(plain, words, place, forms) if word in forms else ((), place)
        if not entries and (entries := guesses.get(word, _UNKNOWN)) is _UNKNOWN:
            entries = guesses[word] = _guess(word, lexicon)
        if entries:
            if entries[0].kind is TermKind.DRUG:
                last = _over_salts(plain, words, last, lexicon)
            listed = not guesses.get(word)
            end = words[last].end()
            found += [FoundTerm(entry.kind, entry.name, match.start(), end, listed) for entry in entries]
            place = last
        place += 1
    return found


def _longest(plain: str, words: list[re.Match[str]], place: int, forms: Forms) -> tuple[tuple[Entry, ...], int]:
    """The longest form that begins at a word, and the place of its last word; () when there is none."""
    form = words[place].group()
    entries, last = forms[form] or (), place
    for following in range(place + 1, len(words)):
        before = words[following - 1]
        gap = plain[before.end() : words[following].start()]
        if gap not in (AFTER_LETTER if before.end() - before.start() == 1 else JOINS):
            break
        form = f"{form} {words[following].group()}"
        if form not in forms:
            break
        if longer := forms[form]:
            entries, last = longer, following
    return entries, last


def _over_salts(plain: str, words: list[re.Match[str]], last: int, lexicon: Lexicon) -> int:
    """The place of the last word of the salt that follows a drug's name."""
    while last + 1 < len(words) and words[last + 1].group() in lexicon.salts:
        if plain[words[last].end() : words[last + 1].start()] != " ":
            break
        last += 1
    return last


def _guess(word: str, lexicon: Lexicon) -> tuple[Entry, ...]:
    """The drug that an unlisted word names by its sound or its stem."""
    if len(word) < 6 or word in lexicon.exceptions or not word.isalpha():
        return ()
    if len(word) >= _SHORTEST_SOUND and len(word) <= 40 and (entry := lexicon.sounds.get(sound_of(word))):
        return (entry,)
    if _SHORTEST_SLIP <= len(word) <= 40 and (slip := _slip(word, lexicon)):
        return (slip,)
    if word.endswith(lexicon.endings):
        stem = max((stem for stem in lexicon.endings if word.endswith(stem)), key=len)
        if len(stem) + 3 < len(word) <= 40:
            return (Entry(TermKind.DRUG, word),)
    return ()


def _slip(word: str, lexicon: Lexicon) -> Entry | None:
    """The drug whose name is a word with one letter more or less; the first letter is never wrong."""
    if entry := lexicon.slips.get(word):
        return entry
    for place in range(1, len(word)):
        entries = lexicon.forms.get(word[:place] + word[place + 1 :])
        if entries and entries[0].kind is TermKind.DRUG and len(word) > _SHORTEST_SLIP:
            brands = lexicon.drugs[entries[0].name].brands if entries[0].name in lexicon.drugs else ()
            return None if word[:place] + word[place + 1 :] in map(str.lower, brands) else entries[0]
    return None


@cache
def shipped_lexicon() -> Lexicon:
    """The lexicon of the shipped lists; raises UsageError for a damaged file, with the field at fault."""
    drugs = _list("drugs.toml", DrugList)
    brands = _list("brands.toml", BrandList)
    stems = _list("stems.toml", StemList)
    measures = _list("measures.toml", MeasureList)
    known = _drugs(drugs, brands)
    names = [(TermKind.DRUG, drug.name, (*drug.spellings, *drug.brands)) for drug in known.values()]
    names += [
        (kind, name, others)
        for file in _TERM_FILES
        for kind, terms in _list(file, TermList).terms.items()
        for name, others in terms.items()
    ]
    names += [(TermKind.TEST, name, others) for name, others in measures.measures.items()]
    forms = _forms(names)
    return Lexicon(
        forms=forms,
        drugs=known,
        stems=stems.stems,
        exceptions=frozenset(stems.exceptions),
        salts=frozenset(stems.salts),
        measures=frozenset((*measures.measures, *measures.also_measured)),
        sounds=_sounds(forms),
        slips=_slips(forms, known),
    )


_TERM_FILES = (
    "patients.toml",
    "conditions.toml",
    "findings.toml",
    "tests.toml",
    "organisms.toml",
    "body_sites.toml",
    "drug_classes.toml",
    "words.toml",
)


def _list(name: str, record: type[ListRecord]) -> ListRecord:
    file = resources.files("edgemed.medical") / "lists" / name
    try:
        return record.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise UsageError(f"The term list {name} is damaged: {error}.", next_step="install edgemed again") from error


def _drugs(drugs: DrugList, brands: BrandList) -> dict[str, Drug]:
    known = {
        name: Drug(name, drug_class, spellings, brands.brands.get(name, ()))
        for drug_class, names in drugs.classes.items()
        for name, spellings in names.items()
    }
    if unknown := [name for name in brands.brands if name not in known]:
        raise UsageError(f"lists/brands.toml names drugs that drugs.toml has not: {', '.join(unknown)}.")
    return known


def _forms(names: Iterable[tuple[TermKind, str, tuple[str, ...]]]) -> Forms:
    """The table of all forms: a canonical name before another's synonym, an earlier list before a later one."""
    forms: Forms = {}
    names = list(names)
    for kind, name, _ in names:
        _put(forms, kind, name, name)
    for kind, name, others in names:
        for word in others:
            _put(forms, kind, name, word)
    return forms


def _put(forms: Forms, kind: TermKind, name: str, word: str) -> None:
    for form in forms_of(read(word).plain, plural=kind in _WITH_PLURAL):
        have = forms.get(form) or ()
        if len(form) > 1 and all(
            kind in _TOGETHER and entry.kind in _TOGETHER and entry.kind is not kind for entry in have
        ):
            _add(forms, form, Entry(kind, name))


def _add(forms: Forms, form: str, entry: Entry) -> None:
    """Puts a form and its beginnings into the table."""
    have = forms.get(form) or ()
    if entry not in have:
        forms[form] = (*have, entry)
    end = form.rfind(" ")
    while end > 0 and form[:end] not in forms:
        forms[form[:end]] = None
        end = form.rfind(" ", 0, end)


def _sounds(forms: Forms) -> dict[str, Entry]:
    """The sound of each drug's name of one word, where no other drug sounds alike."""
    sounds: dict[str, Entry | None] = {}
    for form, entries in forms.items():
        if len(form) < _SHORTEST_SOUND or " " in form or not entries or entries[0].kind is not TermKind.DRUG:
            continue
        sound = sound_of(form)
        same = sounds.setdefault(sound, entries[0])
        if same is not None and same.name != entries[0].name:
            sounds[sound] = None
    return {sound: entry for sound, entry in sounds.items() if entry}


def _slips(forms: Forms, known: Mapping[str, Drug]) -> dict[str, Entry]:
    """Each long drug name of one word with one letter left out, where it names one drug and no other term.

    Brands stay out: many are an English word with a letter less ("differin", "singulair").
    """
    brands = {brand.lower() for drug in known.values() for brand in drug.brands}
    slips: dict[str, Entry | None] = {}
    for form, entries in forms.items():
        if len(form) <= _SHORTEST_SLIP or not form.isalpha() or not entries or entries[0].kind is not TermKind.DRUG:
            continue
        if form in brands:
            continue
        for place in range(1, len(form)):
            slip = form[:place] + form[place + 1 :]
            same = slips.setdefault(slip, entries[0])
            if same is not None and same.name != entries[0].name:
                slips[slip] = None
    return {slip: entry for slip, entry in slips.items() if entry and slip not in forms}
