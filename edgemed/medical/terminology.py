"""Notes beside a person's own words: what an abbreviation, a brand or an everyday word stands for.

Nothing is ever replaced. An abbreviation of several meanings is decided by the words around it, or told as ambiguous
with all of them. Ways of writing that have harmed patients carry a warning.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import islice
from typing import Literal

from pydantic import Field, ValidationError

from edgemed.core.errors import UsageError
from edgemed.core.records import Record
from edgemed.medical.language import DEFAULT_LANGUAGE
from edgemed.medical.reading import Reading, read
from edgemed.medical.terms.lexicon import shipped_lexicon
from edgemed.medical.terms.term_forms import WORD, forms_of, words_of

MAX_NOTES = 100
"""So many of one text are given; nobody reads more beside a question."""
MAX_CHARACTERS = 20_000
"""So much of a text is read for notes; the rest is left without."""
_SHOUT_REACH = 60
"""Characters before and after a word that say whether a text is in capitals."""

NoteKind = Literal["abbreviation", "brand", "lay"]


class TermNote(Record):
    """What one word or phrase of a text stands for; each is noted once, where it comes first."""

    surface: str
    """As written."""
    start: int
    end: int
    """Bytes of the text in UTF-8."""
    kind: NoteKind
    meanings: tuple[str, ...]
    ambiguous: bool = False
    """True when several meanings are possible and the text does not decide."""
    warning: str = ""
    """Why not to write it so, where that has harmed patients."""


class _Written(Record):
    pattern: str
    meaning: str
    warning: str


class Terminology(Record):
    """`abbreviations.toml`; its form is described at its head."""

    source: str
    words: tuple[str, ...]
    one: dict[str, str]
    several: dict[str, dict[str, tuple[str, ...]]]
    danger: dict[str, str]
    written: dict[str, _Written]
    lay: dict[str, str] = Field(min_length=1)


@dataclass(frozen=True)
class _Tables:
    """The data, ready to be looked up."""

    data: Terminology
    words: frozenset[str]
    written: tuple[tuple[re.Pattern[str], _Written], ...]
    phrases: dict[str, tuple[NoteKind, str] | None]
    """Words joined by a blank; None for the beginning of a longer phrase."""


@dataclass(frozen=True, slots=True)
class _Found:
    start: int
    end: int
    kind: NoteKind
    meanings: tuple[str, ...]
    warning: str = ""
    decided: bool = True


_TOKEN = re.compile(
    r"(?<![\w.])(?:[A-Za-z]\.){2,6}(?:[A-Za-z](?!\w))?"
    r"|(?<!\w)\d?[A-Za-z][A-Za-z0-9]*(?:[/&-][A-Za-z0-9]+){0,4}(?!\w)"
)
_PARTS = re.compile(r"[A-Za-z0-9]+")


def term_notes(text: str, language: str = DEFAULT_LANGUAGE) -> tuple[TermNote, ...]:
    """Notes on abbreviations, brand names and everyday words of any text, in order; linear, never raises.

    In another language than English only brand names and dangerous ways to write a dose are noted.
    """
    reading = read(text[:MAX_CHARACTERS])
    tables = _tables()
    english = language == DEFAULT_LANGUAGE
    found = list(islice(_written(reading.plain, tables), MAX_NOTES))
    taken = {place for note in found for place in range(note.start, note.end)}
    more = [*(_abbreviations(reading, tables) if english else ()), *_phrases(reading.plain, tables, lay=english)]
    found += [note for note in more if note.start not in taken and note.end - 1 not in taken]
    first: dict[tuple[str, tuple[str, ...]], _Found] = {}
    for note in sorted(found, key=lambda note: (note.start, -note.end)):
        first.setdefault((reading.plain[note.start : note.end], note.meanings), note)
    return tuple(_notes(reading, list(first.values())[:MAX_NOTES]))


def _notes(reading: Reading, found: list[_Found]) -> Iterator[TermNote]:
    offsets = reading.byte_offsets(place for note in found for place in (note.start, note.end))
    cased = _cased(reading)
    for note in found:
        yield TermNote(
            surface=cased[note.start : note.end].encode("utf-8", "replace").decode(),
            start=offsets[note.start],
            end=offsets[note.end],
            kind=note.kind,
            meanings=note.meanings,
            ambiguous=not note.decided,
            warning=note.warning,
        )


def _cased(reading: Reading) -> str:
    """The text with its capitals, one character for each of the plain form."""
    if reading.places is None:
        return reading.text
    return "".join(reading.text[place] for place in reading.places[:-1])


def _written(plain: str, tables: _Tables) -> Iterator[_Found]:
    for pattern, written in tables.written:
        for match in islice(pattern.finditer(plain), MAX_NOTES):
            yield _Found(match.start(), match.end(), "abbreviation", (written.meaning,), written.warning)


def _abbreviations(reading: Reading, tables: _Tables) -> Iterator[_Found]:
    cased = _cased(reading)
    near = _context(reading.plain)
    decided: dict[str, tuple[tuple[str, ...], bool]] = {}
    done: set[str] = set()
    for match in _TOKEN.finditer(cased):
        for start, end, key in _keys(match, tables.data):
            if cased[start:end] in done:
                continue
            shouted = key in tables.words and _is_shouted(cased, start, end)
            if shouted or (key in tables.words and not cased[start:end].replace(".", "").isupper()):
                continue
            done.add(cased[start:end])
            if key not in decided:
                decided[key] = _meanings(key, tables.data, near)
            meanings, clear = decided[key]
            if not clear and len(key) == 2 and key in tables.words:
                continue  # "AS" stressed is more often the word
            yield _Found(start, end, "abbreviation", meanings, tables.data.danger.get(key, ""), clear)


def _keys(match: re.Match[str], data: Terminology) -> Iterator[tuple[int, int, str]]:
    """The abbreviation that a token is, or those among its parts ("HTN/DM")."""
    if key := _key(match.group(), data):
        yield match.start(), match.end(), key
        return
    parts = list(_PARTS.finditer(match.group()))
    if len(parts) > 1 and "." not in match.group():
        for part in parts:
            if len(part.group()) > 1 and part.group()[:2].isupper() and (key := _key(part.group(), data)):
                yield match.start() + part.start(), match.start() + part.end(), key


def _key(surface: str, data: Terminology) -> str:
    bare = surface.replace(".", "")
    if len(bare) < 2:
        return ""
    for key in (bare, bare.lower()):
        if key in data.several or key in data.one:
            return key
    upper = bare.upper()
    if bare.islower() and upper in data.danger and upper not in data.words:
        return upper
    return ""


def _meanings(key: str, data: Terminology, near: Callable[[str], bool]) -> tuple[tuple[str, ...], bool]:
    """The meaning that the text decides for, or all of them; and whether it decided."""
    if key in data.one:
        return (data.one[key],), True
    if key not in data.several:
        return (), True
    scores = {
        meaning: sum(near(word) for word in contexts if word != key.lower())
        for meaning, contexts in data.several[key].items()
    }
    best = max(scores.values())
    winners = [meaning for meaning, score in scores.items() if score == best]
    if len(scores) == 1 or (best and len(winners) == 1):
        return (winners[0],), True
    return tuple(scores), False


def _context(plain: str) -> Callable[[str], bool]:
    """A test for whether some word of the text begins with given letters; words are sorted once."""
    words = sorted(set(words_of(plain)))

    def begins(start: str) -> bool:
        if not start[0].isalnum() or "-" in start or "/" in start:
            return start in plain
        place = bisect_left(words, start)
        if place == len(words):
            return False
        return words[place] == start if len(start) < 3 else words[place].startswith(start)

    return begins


def _is_shouted(cased: str, start: int, end: int) -> bool:
    """Whether most words around are in capitals, so that "ALL" is only the word all."""
    around = cased[max(0, start - _SHOUT_REACH) : start] + " " + cased[end : end + _SHOUT_REACH]
    words = re.findall(r"[A-Za-z]{2,}", around)
    return bool(words) and 2 * sum(word.isupper() for word in words) > len(words)


def _phrases(plain: str, tables: _Tables, *, lay: bool) -> Iterator[_Found]:
    """Brand names and everyday words, longest first."""
    words = list(WORD.finditer(plain))
    place = 0
    while place < len(words):
        last, entry = place, None
        phrase, following = words[place].group(), place
        while phrase in tables.phrases:
            if tables.phrases[phrase]:
                last, entry = following, tables.phrases[phrase]
            following += 1
            if following == len(words) or words[following].start() - words[following - 1].end() != 1:
                break
            phrase = f"{phrase} {words[following].group()}"
        if entry and (lay or entry[0] == "brand"):
            yield _Found(words[place].start(), words[last].end(), entry[0], (entry[1],))
            place = last
        place += 1


@cache
def _tables() -> _Tables:
    data = shipped_terminology()
    phrases: dict[str, tuple[NoteKind, str] | None] = {}
    for drug in shipped_lexicon().drugs.values():
        for brand in drug.brands:
            _add(phrases, read(brand).plain, ("brand", drug.name), plural=False)
    for words, meaning in data.lay.items():
        _add(phrases, read(words).plain, ("lay", meaning), plural=True)
    written = tuple((re.compile(entry.pattern), entry) for entry in data.written.values())
    return _Tables(data, frozenset(data.words), written, phrases)


def _add(
    phrases: dict[str, tuple[NoteKind, str] | None], words: str, entry: tuple[NoteKind, str], *, plural: bool
) -> None:
    for form in forms_of(words, plural=plural):
        phrases[form] = entry
        end = form.rfind(" ")
        while end > 0:
            phrases.setdefault(form[:end], None)
            end = form.rfind(" ", 0, end)


@cache
def shipped_terminology() -> Terminology:
    """The data of `abbreviations.toml`; raises UsageError with the field at fault when it is damaged."""
    text = resources.files("edgemed.medical").joinpath("abbreviations.toml").read_text(encoding="utf-8")
    try:
        return Terminology.model_validate(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise UsageError(f"abbreviations.toml is damaged: {error}.", next_step="install edgemed again") from error
