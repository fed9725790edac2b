"""What a text says is absent, past, another person's or only possible: "no fever, cough or rash", "history of".

A cue opens a scope; punctuation, a contrast ("but"), a new clause ("and he has") or the next cue ends it, a list
does not. The cues of each language lie in lists/negation.toml. Linear in the text: a scope never runs over the
next cue, nor over more than MAX_WORDS.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Literal

from pydantic import Field, ValidationError

from edgemed.core.errors import UsageError
from edgemed.core.records import Record
from edgemed.medical.terms.term_forms import JOINS, WORD, words_of

Status = Literal["negated", "past", "family", "possible"]

MAX_WORDS = 40
"""No statement of a clinical text is longer."""
MAX_WORDS_BACK = 10


class CueGroup(Record):
    """Cues of one kind."""

    status: Status
    side: Literal["before", "after"]
    reach: Literal["list", "phrase", "word"]
    words: tuple[str, ...] = Field(min_length=1)


class CueLanguage(Record):
    """The cues of one language."""

    and_words: tuple[str, ...]
    now: tuple[str, ...]
    stops: tuple[str, ...]
    after_comma: tuple[str, ...]
    after_and: tuple[str, ...]
    ignored: tuple[str, ...]
    cues: tuple[CueGroup, ...]


class CueFile(Record):
    """lists/negation.toml."""

    source: str = Field(min_length=1)
    languages: dict[str, CueLanguage]


@dataclass(frozen=True, slots=True)
class Scope:
    """A stretch of the plain text, without its cue, and what is said of the terms in it."""

    start: int
    end: int
    status: Status


@dataclass(frozen=True, slots=True)
class _Groups:
    """What a cue says of the words after it ("before" them) and of the words before it."""

    before: CueGroup | None = None
    after: CueGroup | None = None


@dataclass(frozen=True, slots=True)
class _Cue:
    """A cue at its words: `first` to `last`, both inclusive."""

    first: int
    last: int
    groups: _Groups

    @property
    def ignored(self) -> bool:
        return self.groups is _IGNORED


_IGNORED = _Groups()
"""Says nothing: a phrase that holds a cue's word and means something else."""


@dataclass(frozen=True)
class _Cues:
    """One language's cues by form; None for what only begins a longer one."""

    forms: dict[str, _Groups | None]
    stops: dict[str, bool]
    after_comma: frozenset[str]
    after_and: frozenset[str]
    and_words: frozenset[str]
    now: re.Pattern[str]


def scopes_of(plain: str, language: str = "en") -> list[Scope]:
    """The scopes of a plain text (reading.py), in the order of their cues; never raises on text.

    A term belongs to a scope when it lies inside it. Scopes of two kinds may overlap ("no previous fever" is
    negated and past). A language without cues gives [].
    """
    cues = _cues(language)
    return _Finder(plain, cues).scopes() if cues else []


def languages() -> tuple[str, ...]:
    """The languages that have cues."""
    return tuple(_file().languages)


class _Finder:
    """Finds the scopes of one text."""

    def __init__(self, plain: str, cues: _Cues) -> None:
        self.plain = plain
        self.cues = cues
        self.words = list(WORD.finditer(plain))
        self.found = self._found_cues()
        self.begins = {cue.first for cue in self.found if cue.groups.before}
        self.ends = {cue.last for cue in self.found}
        self.skipped: set[int] = set()

    def scopes(self) -> list[Scope]:
        scopes = []
        for number, cue in enumerate(self.found):
            if number in self.skipped:
                continue
            after, before = cue.groups.after, cue.groups.before
            if before and self._doubled(number, cue, before):
                continue
            scope = self._forward(cue, before) if before else None
            if scope is None and after:
                scope = self._backward(cue, after)
            if scope and not self._is_now(scope, cue):
                scopes.append(scope)
        scopes += self._question_marks()
        return scopes

    def _found_cues(self) -> list[_Cue]:
        forms, words, found = self.cues.forms, self.words, []
        place = 0
        while place < len(words):
            if words[place].group() in forms and (cue := self._longest(place)):
                if not cue.ignored:
                    cue = self._ignored_inside(cue) or cue
                if not cue.ignored:
                    found.append(cue)
                place = cue.last
            place += 1
        return found

    def _ignored_inside(self, cue: _Cue) -> _Cue | None:
        """The ignored phrase that begins inside a cue and runs over its end: "is not responding to"."""
        for place in range(cue.first + 1, cue.last + 1):
            inner = self._longest(place) if self.words[place].group() in self.cues.forms else None
            if inner and inner.ignored and inner.last > cue.last:
                return inner
        return None

    def _longest(self, place: int) -> _Cue | None:
        forms, words = self.cues.forms, self.words
        form = words[place].group()
        groups, last = forms[form], place
        for following in range(place + 1, len(words)):
            if self._gap(following) not in JOINS:
                break
            form = f"{form} {words[following].group()}"
            if form not in forms:
                break
            if (longer := forms[form]) is not None:
                groups, last = longer, following
        return None if groups is None else _Cue(place, last, groups)

    def _gap(self, place: int) -> str:
        """What stands before a word."""
        return self.plain[self.words[place - 1].end() : self.words[place].start()] if place else ""

    def _doubled(self, number: int, cue: _Cue, group: CueGroup) -> bool:
        """ "not without fever": two negations that touch say nothing is absent."""
        if group.status != "negated" or number + 1 >= len(self.found):
            return False
        following = self.found[number + 1]
        second = following.groups.before
        touching = following.first == cue.last + 1 and self._gap(following.first) == " "
        if not second or second.status != "negated" or not touching:
            return False
        self.skipped.add(number + 1)
        return True

    def _forward(self, cue: _Cue, group: CueGroup) -> Scope | None:
        """The scope that follows a cue."""
        words, depth, end = self.words, 0, None
        for place in range(cue.last + 1, min(cue.last + 1 + MAX_WORDS, len(words))):
            gap = self._gap(place)
            first = place == cue.last + 1
            depth += gap.count("(") - gap.count(")")
            if depth < 0 or (self._is_end(gap, place) and not (first and gap.strip() == ":")):
                break
            if first and "," in gap:  # "No, she has fever"
                break
            if (not first or cue.groups.after) and self._is_stop(place, gap, group):
                break
            end = words[place].end()
            if group.reach == "word":
                break
        return None if end is None else Scope(words[cue.last + 1].start(), end, group.status)

    def _is_end(self, gap: str, place: int) -> bool:
        """Whether a gap ends the sentence; a decimal point does not, nor the point of "H. influenzae"."""
        if not gap or gap == " ":
            return False
        if "\n" in gap and "," not in gap:
            return True
        if "." in gap:
            before, after = self.words[place - 1].group(), self.words[place].group()
            if gap == "." and before[-1].isdigit() and after[0].isdigit():
                return False
            return len(before) > 1 or gap != ". "
        return any(mark in gap for mark in ";:!?|") or " - " in gap

    def _is_stop(self, place: int, gap: str, group: CueGroup) -> bool:
        """Whether a word begins a new statement."""
        word = self.words[place].group()
        if place in self.begins:
            return True
        if "," in gap and (group.reach == "phrase" or word in self.cues.after_comma):
            return True
        if word in self.cues.and_words or "&" in gap:
            if group.reach == "phrase" or place + 1 >= len(self.words):
                return True
            return self.words[place + 1].group() in self.cues.after_and
        return self._begins_stop(place)

    def _begins_stop(self, place: int) -> bool:
        form = self.words[place].group()
        stops = self.cues.stops
        for following in range(place + 1, len(self.words) + 1):
            if form not in stops:
                return False
            if stops[form]:
                return True
            if following == len(self.words) or self._gap(following) != " ":
                return False
            form = f"{form} {self.words[following].group()}"
        return False

    def _backward(self, cue: _Cue, group: CueGroup) -> Scope | None:
        """The scope that a cue closes: back to the beginning of its clause; None when the cue has nothing before it."""
        words, start = self.words, None
        for place in range(cue.first - 1, max(-1, cue.first - 1 - MAX_WORDS_BACK), -1):
            gap = self._gap(place + 1)
            first = place == cue.first - 1
            if self._is_end(gap, place + 1) and not (first and gap.strip() == ":"):
                break
            if "," in gap and (first or group.reach == "phrase"):
                break
            word = words[place].group()
            if self._ends_backward(place, word, group):
                break
            start = words[place].start()
        return None if start is None else Scope(start, words[cue.first - 1].end(), group.status)

    def _ends_backward(self, place: int, word: str, group: CueGroup) -> bool:
        if word in self.cues.and_words and group.reach == "phrase":
            return True
        return place in self.ends or self.cues.stops.get(word, False)

    def _is_now(self, scope: Scope, cue: _Cue) -> bool:
        """ "Father had a stroke an hour ago", "history of fever for 3 days": about now after all."""
        if scope.status not in ("past", "family"):
            return False
        begin = min(scope.start, self.words[cue.first].start())
        rest = _CLAUSE.match(self.plain, max(scope.end, self.words[cue.last].end()))
        return bool(self.cues.now.search(self.plain[begin : rest.end() if rest else scope.end]))

    def _question_marks(self) -> list[Scope]:
        """ "?malaria", "? pneumonia": the writer is not sure."""
        return [Scope(match.start(1), match.end(1), "possible") for match in _QUERY.finditer(self.plain)]


_CLAUSE = re.compile(r"[^.,;:!?\n]{0,30}")
"""The rest of a clause after a scope."""
_QUERY = re.compile(r"(?:(?<=[\s(/,:;])|^)\?+ ?([a-z][^\n.,;:!?()]{2,60})")


@cache
def _file() -> CueFile:
    file = resources.files("edgemed.medical") / "lists" / "negation.toml"
    try:
        return CueFile.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise UsageError(f"The list negation.toml is damaged: {error}.", next_step="install edgemed again") from error


@cache
def _cues(language: str) -> _Cues | None:
    data = _file().languages.get(language)
    if data is None:
        return None
    forms: dict[str, _Groups | None] = {}
    for group in data.cues:
        for word in group.words:
            form = _begun(word, forms)
            forms[form] = replace(forms[form] or _Groups(), **{group.side: group})
    for word in data.ignored:
        forms[_begun(word, forms)] = _IGNORED
    stops: dict[str, bool] = {}
    for word in data.stops:
        parts = words_of(word)
        for count in range(1, len(parts)):
            stops.setdefault(" ".join(parts[:count]), False)
        stops[" ".join(parts)] = True
    now = "|".join(re.escape(word) for word in sorted(data.now, key=len, reverse=True))
    return _Cues(
        forms=forms,
        stops=stops,
        after_comma=frozenset(data.after_comma),
        after_and=frozenset(data.after_and),
        and_words=frozenset(data.and_words),
        now=re.compile(rf"\b(?:{now})\b|\bfor (?:the (?:last|past) )?\d+ (?:hour|day|week)"),
    )


def _begun(word: str, forms: dict[str, _Groups | None]) -> str:
    """The form of a cue, with its beginnings put into the table."""
    parts = words_of(word)
    for count in range(1, len(parts) + 1):
        forms.setdefault(" ".join(parts[:count]), None)
    return " ".join(parts)
