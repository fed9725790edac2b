"""What the danger rules of a language find in a text: signs with their words, ages, and how each word stands."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgemed.medical.language import Language, language_data
from edgemed.medical.matching.cues import N_CUES, Standing, clause_words, standing_of
from edgemed.medical.matching.danger_rules import NumberRule, Rule, Rules, danger_rules
from edgemed.medical.matching.phrases import Found, Words, words_of

LOOSE_WORDS = 240
"""A text of more words is not looked through again as if nothing in it were denied."""
_KEPT = 200  # finds of one phrase; bounds the time on a text that repeats a word
_TRIED = 40  # places at which a rule's rarest part is tried; bounds the time on a text made of alarming words
_NEAR = 6  # places of another part tried around each
_SHORT_TEXT = 4  # words: a bare "snake bite!" is a call for help


@dataclass(frozen=True, slots=True)
class Hit:
    """A group found at words[start:end]."""

    start: int
    end: int
    distant: bool


@dataclass(frozen=True, slots=True)
class Findings:
    """The words of a text with what was found among them."""

    words: Words
    rules: Rules
    cues: list[Found]
    """Phrases of the cues; the value is a `CueKind`."""
    standing: Standing
    hits: Hits
    """The groups that are not denied."""
    loose: Hits | None
    """The groups as if nothing were denied or distant; None for a text of more than `LOOSE_WORDS` words."""
    ages: list[tuple[int, float]]
    """Place and months of each age."""
    signs: dict[str, tuple[Hit, ...]]
    """The signs that hold, each with its parts."""
    measured: frozenset[str]
    """Those of them that a measured value showed."""


class Hits:
    """All groups found in a text, by group and in order."""

    def __init__(self, words: Words, found: Sequence[Found], standing: Standing, *, loose: bool = False) -> None:
        """`loose`: denied and distant groups count as well."""
        self.words, self.standing, self.loose = words, standing, loose
        self.of: dict[int, list[Hit]] = {}
        self._starts: dict[int, list[int]] = {}
        for each in found:
            if each.value >= N_CUES:
                self.add(each.value, each.start, each.end)

    def add(self, group: int, start: int, end: int) -> None:
        denied, distant = self.standing.denied, self.standing.distant
        if self.standing.elsewhere[start]:
            return
        if self.loose:
            self.of.setdefault(group, []).append(Hit(start, end, False))
            return
        if denied[start]:  # the last word may be denied by a negation inside: "not breathing"
            return
        self.of.setdefault(group, []).append(Hit(start, end, bool(distant[start] and distant[end - 1])))

    def near(self, group: int, low: int, high: int) -> list[Hit]:
        """Some hits of a group that begin at words low..high."""
        hits = self.of.get(group, [])
        if len(hits) <= 3:
            return [hit for hit in hits if low <= hit.start <= high]
        if group not in self._starts or len(self._starts[group]) != len(hits):
            hits.sort(key=lambda hit: hit.start)
            self._starts[group] = [hit.start for hit in hits]
        first = bisect_left(self._starts[group], low)
        return [hit for hit in hits[first : first + _NEAR] if hit.start <= high]


def findings_of(plain: str, language: str, folder: Path | None = None) -> Findings:
    """All that a language's rules find in a plain text (`reading.read`); linear."""
    data, rules = language_data(language, folder), danger_rules(language, folder)
    words = words_of(plain, joins=data.joins, clause_words=clause_words(data))
    found = rules.phrases.find(words, mend=True, most=_KEPT)
    standing = standing_of(words, [each for each in found if each.value < N_CUES or each.value in rules.parts])
    hits = Hits(words, found, standing)
    loose = Hits(words, found, standing, loose=True) if len(words) <= LOOSE_WORDS else None
    ages = list(_ages(words, hits, rules, data))
    for group, limit in rules.age_limits.items():
        for place, months in ages:
            if months < limit:
                for its in filter(None, (hits, loose)):
                    its.add(group, place, place + 1)
    signs: dict[str, tuple[Hit, ...]] = {}
    for rule in rules.rules:
        if rule.sign not in signs and (parts := holds(rule, hits)):
            signs[rule.sign] = parts
    measured = set()
    for number in rules.numbers:
        if number.given.sign not in signs and (parts := _measured(number, hits, ages, data)):
            signs[number.given.sign] = parts
            measured.add(number.given.sign)
    cues = [each for each in found if each.value < N_CUES]
    return Findings(words, rules, cues, standing, hits, loose, ages, signs, frozenset(measured))


def holds(rule: Rule, hits: Hits) -> tuple[Hit, ...]:
    """The parts of a rule where it holds with at least one part present; () if nowhere."""
    if any(group not in hits.of for group in rule.groups):
        return ()
    if rule.topic and not hits.loose and not hits.standing.somebody and len(hits.words) > _SHORT_TEXT:
        return ()
    if rule.ordered:
        return next(filter(None, (_in_order(rule, hits, hit) for hit in hits.of[rule.groups[0]][:_TRIED])), ())
    rarest = min(rule.groups, key=lambda group: len(hits.of[group]))
    for anchor in hits.of[rarest][:_TRIED]:
        low, high = _window(rule, hits.words, anchor)
        parts = []
        for group in rule.groups:
            near = [anchor] if group == rarest else hits.near(group, low, high)
            if not near:
                break
            parts.append(min(near, key=lambda hit: (hit.distant, abs(hit.start - anchor.start))))
        else:
            if _present(rule, parts) and not any(hits.near(group, low, high) for group in rule.without):
                return tuple(parts)
    return ()


def _present(rule: Rule, parts: list[Hit]) -> bool:
    """Whether a part that is more than context is neither past nor imagined."""
    return any(not part.distant for part, context in zip(parts, rule.context, strict=True) if not context)


def _in_order(rule: Rule, hits: Hits, first: Hit) -> tuple[Hit, ...]:
    _, high = _window(rule, hits.words, first)
    parts = [first]
    for group in rule.groups[1:]:
        near = hits.near(group, parts[-1].end, high)
        if not near:
            return ()
        parts.append(min(near, key=lambda hit: (hit.distant, hit.start)))
    if _present(rule, parts) and not any(hits.near(group, first.start, high) for group in rule.without):
        return tuple(parts)
    return ()


def _window(rule: Rule, words: Words, anchor: Hit) -> tuple[int, int]:
    """The first and the last word at which the other parts of a rule may begin."""
    low, high = max(0, anchor.start - rule.reach), min(len(words) - 1, anchor.start + rule.reach)
    if not rule.across:
        sentence = words.sentences[anchor.start]
        low = max(low, bisect_left(words.sentences, sentence))
        high = min(high, bisect_left(words.sentences, sentence + 1) - 1)
    return low, high


def number_of(form: str, number_words: dict[str, float]) -> float | None:
    """The value of a word that is a number; None if it is none or has more than 12 digits."""
    if not form[0].isdigit():
        return number_words.get(form)
    if len(form) > 12:
        return None
    whole, _, part = form.replace(",", ".").partition(".")
    if len(part) == 3 and "," in form:
        whole, part = whole + part, ""
    try:
        return float(f"{whole}.{part.replace('.', '') or 0}")
    except ValueError:
        return None


def _ages(words: Words, hits: Hits, rules: Rules, data: Language) -> Iterator[tuple[int, float]]:
    """Place and months of each age of a text."""
    danger = data.danger
    months = {"days": 1 / 30.4, "weeks": 7 / 30.4, "months": 1.0, "years": 12.0}
    for unit, group in rules.ages.items():
        for hit in hits.of.get(group, []):
            place = hit.start - 1
            if place < 0 or words.sentences[place] != words.sentences[hit.start]:
                continue
            value = number_of(words.forms[place], danger.number_words)
            if value is None or (place and words.forms[place - 1] in danger.age.not_before):
                continue
            yield place, value * months[unit]


def _measured(rule: NumberRule, hits: Hits, ages: list[tuple[int, float]], data: Language) -> tuple[Hit, ...]:
    """The words and the number of a measured value that is out of bounds; () if none."""
    given, words = rule.given, hits.words
    if any(group not in hits.of for group in rule.also):
        return ()
    youngest = min((months for _, months in ages), default=None)
    if given.age_under_months is not None and (youngest is None or youngest >= given.age_under_months):
        return ()
    if given.age_from_months is not None and youngest is not None and youngest < given.age_from_months:
        return ()
    for hit in hits.of.get(rule.words, [])[: 4 * _TRIED]:
        after = range(hit.end, min(len(words), hit.end + given.reach))
        before = range(hit.start - 1, max(-1, hit.start - 1 - given.reach), -1) if given.before else range(0)
        for places in (after, before):
            for place in places:
                if words.sentences[place] != words.sentences[hit.start]:
                    break
                value = number_of(words.forms[place], data.danger.number_words)
                if value is None:
                    continue
                if rule.units is not None and not hits.near(rule.units, place + 1, place + 1):
                    continue
                low = given.at_least if given.at_least is not None else float("-inf")
                high = given.below if given.below is not None else float("inf")
                if low <= value < high and not (hit.distant or hits.standing.denied[place]):
                    return (hit, Hit(place, place + 1, False))
                break  # the nearest number is the measured one
    return ()
