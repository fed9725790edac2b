"""The danger signs of a language file, made ready for matching: groups of phrases, and rules over groups.

A rule is groups joined by ` + ` (all must occur, in any order) or ` > ` (in this order) within one sentence, or, when
it ends in `~N`, within N words of each other across sentences; a group after ` ! ` must not occur there. A group after
`&` only goes along with the others. A group is alternatives joined by ` | `: phrases, in which `@name` is each phrase
of a list of `[danger.words]`, or `{age<N}`: an age under N months.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from edgemed.medical.language import Language, NumberSign, language_data
from edgemed.medical.matching.cues import N_CUES, cue_phrases
from edgemed.medical.matching.phrases import Phrases, phrase_symbols
from edgemed.medical.reading import read

MOST_PHRASES = 8000
"""Phrases that one line of names may stand for."""
REACH = 40
"""Words between the first and any other part of a rule within one sentence."""

_WINDOW = re.compile(r"\s*~\s*(\d{1,2})\s*$")
_AGE = re.compile(r"\{age<(\d+(?:\.\d+)?)\}")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a sign: numbers of groups."""

    sign: str
    groups: tuple[int, ...]
    context: tuple[bool, ...]
    """Whether a group only goes along (`& now | she`): its being present does not make the sign present."""
    without: tuple[int, ...]
    ordered: bool
    reach: int
    across: bool
    """Whether the parts may stand in different sentences."""
    topic: bool
    """A bare name, which counts only when the text speaks of somebody or of now."""


@dataclass(frozen=True, slots=True)
class NumberRule:
    """One measured value of a sign."""

    given: NumberSign
    words: int
    units: int | None
    also: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Rules:
    """All rules of a language and the matcher of their groups; cues keep the first numbers."""

    phrases: Phrases
    rules: tuple[Rule, ...]
    numbers: tuple[NumberRule, ...]
    ages: dict[str, int]
    """Groups of the units of age, by name."""
    age_limits: dict[int, float]
    """Months, for groups that hold an age limit."""
    parts: frozenset[int]
    """Groups that make up a sign; the others only forbid one."""


@dataclass(slots=True)
class _Groups:
    """Groups met so far, each with its number and phrases."""

    language: Language
    numbers: dict[str, int] = field(default_factory=dict)
    phrases: dict[str, tuple[int, ...]] = field(default_factory=dict)
    limits: dict[int, float] = field(default_factory=dict)

    def number_of(self, text: str) -> int:
        """The number of a group by its text; raises ValueError for a name or phrase that cannot be."""
        text = " | ".join(sorted({part.strip() for part in text.split("|")}))
        if text not in self.numbers:
            number = self.numbers[text] = N_CUES + len(self.numbers)
            for phrase in self.expanded(text, ()):
                if age := _AGE.fullmatch(phrase):
                    self.limits[number] = max(self.limits.get(number, 0.0), float(age[1]))
                    continue
                plain = read(phrase).plain
                symbols = phrase_symbols(plain, joins=self.language.joins)
                if not symbols or symbols[0] in ("*", "?") or symbols[-1] in ("*", "?"):
                    raise ValueError(f"the phrase {phrase!r} has no first or no last word")
                if number not in (known := self.phrases.get(plain, ())):
                    self.phrases[plain] = (*known, number)
        return self.numbers[text]

    def expanded(self, text: str, inside: tuple[str, ...]) -> list[str]:
        """All phrases of a group: names are replaced by the phrases of their lists, each with each."""
        phrases: list[str] = []
        for part in text.split("|"):
            lines = [""]
            for piece in part.split():
                choices = self._listed(piece[1:], inside) if piece.startswith("@") else [piece]
                if len(lines) * len(choices) > MOST_PHRASES:
                    raise ValueError(f"{part.strip()!r} stands for more than {MOST_PHRASES} phrases")
                lines = [f"{line} {choice}".strip() for line in lines for choice in choices]
            phrases.extend(lines)
        return phrases

    def _listed(self, name: str, inside: tuple[str, ...]) -> list[str]:
        if name in inside or name not in self.language.danger.words:
            raise ValueError(
                f"the list @{name} {'stands within itself' if name in inside else 'is not in danger.words'}"
            )
        return [phrase for text in self.language.danger.words[name] for phrase in self.expanded(text, (*inside, name))]


@cache
def danger_rules(language: str, folder: Path | None = None) -> Rules:
    """The rules of a language, made once."""
    return rules_of(language_data(language, folder))


def rules_of(data: Language) -> Rules:
    """The rules of a language's record; raises ValueError with the field of a malformed rule."""
    groups = _Groups(data)
    rules = tuple(
        _rule(sign.sign, text, groups, topic)
        for sign in data.danger.sign
        for texts, topic in ((sign.rules, False), (sign.topics, True))
        for text in texts
    )
    numbers = tuple(_number_rule(given, groups) for given in data.danger.number)
    ages = {
        unit: groups.number_of(" | ".join(texts))
        for unit in ("days", "weeks", "months", "years")
        if (texts := getattr(data.danger.age, unit))
    }
    phrases = dict(groups.phrases)
    for phrase, kinds in cue_phrases(data.cues).items():
        phrases[phrase] = (*kinds, *phrases.get(phrase, ()))
    matcher = Phrases(
        phrases,
        joins=data.joins,
        prefixes=data.verb_prefixes.by_sign(),
        number_words=data.danger.number_words,
        not_typos=data.danger.not_typos,
        gap_stops=(word for word in (*data.cues.negation, *data.cues.negation_wide) if " " not in word),
    )
    parts = frozenset(group for rule in rules for group in rule.groups)
    return Rules(matcher, rules, numbers, ages, groups.limits, parts)


def _rule(sign: str, text: str, groups: _Groups, topic: bool) -> Rule:
    window = _WINDOW.search(text)
    body, *without = (text[: window.start()] if window else text).split(" ! ")
    ordered = " > " in body
    parts = body.split(" > " if ordered else " + ")
    try:
        if ordered and " + " in body:
            raise ValueError("a rule has either + or >")
        if all(part.lstrip().startswith("&") for part in parts):
            raise ValueError("a rule needs a group without &")
        return Rule(
            sign=sign,
            groups=tuple(groups.number_of(part.lstrip("& ")) for part in parts),
            context=tuple(part.lstrip().startswith("&") for part in parts),
            without=tuple(groups.number_of(part) for part in without),
            ordered=ordered,
            reach=int(window[1]) if window else REACH,
            across=window is not None,
            topic=topic,
        )
    except ValueError as error:
        raise ValueError(f"danger.sign {sign}, {text!r}: {error}") from error


def _number_rule(given: NumberSign, groups: _Groups) -> NumberRule:
    try:
        return NumberRule(
            given,
            groups.number_of(" | ".join(given.words)),
            groups.number_of(" | ".join(given.units)) if given.units else None,
            tuple(groups.number_of(part) for part in given.also.split(" + ")) if given.also else (),
        )
    except ValueError as error:
        raise ValueError(f"danger.number {given.sign}: {error}") from error
