"""Danger signs in a text: somebody who needs help at once, whatever the question's category.

Rules and cues are data (`languages/<code>.toml`); negation, the long past, teaching and "what if" are told apart from
somebody present by `cues`. When in doubt, a sign counts: a missed one costs more than a false alarm.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgemed.core.records import Record
from edgemed.medical.language import DEFAULT_LANGUAGE, Language, language_data, languages
from edgemed.medical.matching.cues import N_CUES, Standing, clause_words, standing_of
from edgemed.medical.matching.danger_rules import NumberRule, Rule, Rules, danger_rules
from edgemed.medical.matching.phrases import Found, Words, words_of
from edgemed.medical.reading import Reading, read

HEAD, TAIL = 10_000, 2_000
"""Characters of a long text that are read for danger signs: a question has a few hundred."""
OTHERS_READ = 1000
"""Of these, so many are read in a language that was not chosen."""
_WORD = re.compile(r"[a-z]+")
_KEPT = 200  # finds of one phrase; bounds the time on a text that repeats a word
_TRIED = 40  # places at which a rule's rarest part is tried; bounds the time on a text made of alarming words
_NEAR = 6  # places of another part tried around each
_SHORT_TEXT = 4  # words: a bare "snake bite!" is a call for help
_SHOWN = 80  # characters of a sign's words shown whole


class DangerSign(Record):
    """A danger sign found: its slug, the words as written, and their place in UTF-8 bytes of the text."""

    sign: str
    words: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Hit:
    """A group found at words[start:end]."""

    start: int
    end: int
    distant: bool


class _Hits:
    """All groups found in a text that are not denied, by group and in order."""

    def __init__(self, words: Words, found: Sequence[Found], standing: Standing) -> None:
        self.words, self.standing = words, standing
        self.of: dict[int, list[_Hit]] = {}
        self._starts: dict[int, list[int]] = {}
        for each in found:
            if each.value >= N_CUES:
                self.add(each.value, each.start, each.end)

    def add(self, group: int, start: int, end: int) -> None:
        denied, distant = self.standing.denied, self.standing.distant
        if self.standing.elsewhere[start]:
            return
        if denied[start]:  # the last word may be denied by a negation inside: "not breathing"
            return
        self.of.setdefault(group, []).append(_Hit(start, end, bool(distant[start] and distant[end - 1])))

    def near(self, group: int, low: int, high: int) -> list[_Hit]:
        """Some hits of a group that begin at words low..high."""
        hits = self.of.get(group, [])
        if len(hits) <= 3:
            return [hit for hit in hits if low <= hit.start <= high]
        if group not in self._starts or len(self._starts[group]) != len(hits):
            hits.sort(key=lambda hit: hit.start)
            self._starts[group] = [hit.start for hit in hits]
        first = bisect_left(self._starts[group], low)
        return [hit for hit in hits[first : first + _NEAR] if hit.start <= high]


def danger_signs(text: str, language: str = DEFAULT_LANGUAGE, folder: Path | None = None) -> tuple[DangerSign, ...]:
    """The danger signs of a text, each sign once, in the order of their places; never raises on text, linear.

    Of a text of more than `HEAD` + `TAIL` characters only its head and its tail are read.
    `folder`: the clinic's own language files. Raises UsageError for a language that is not there or malformed.
    """
    if len(text) <= HEAD + TAIL:
        return _signs_of(text, language, folder)
    before = len(text[:-TAIL].encode("utf-8", "surrogatepass"))
    signs = {sign.sign: sign for sign in _signs_of(text[:HEAD], language, folder)}
    for sign in _signs_of(text[-TAIL:], language, folder):
        moved = sign.model_copy(update={"start": sign.start + before, "end": sign.end + before})
        signs.setdefault(sign.sign, moved)
    return tuple(signs.values())


def danger_signs_in_any_language(text: str, language: str, folder: Path | None = None) -> tuple[DangerSign, ...]:
    """The danger signs in `language`; where there are none, those of another language that the text seems to be in.

    A person in a hurry does not choose a language first. A text seems to be in another language when it holds more of
    that one's common words, or none of the chosen one's. Of a long text only `OTHERS_READ` characters are tried so.
    """
    if found := danger_signs(text, language, folder):
        return found
    beginning = text[:OTHERS_READ]
    words = _WORD.findall(read(beginning).plain)
    own = _n_common(words, language, folder)
    for other in languages(folder):
        if other == language or not language_data(other, folder).danger_checked:
            continue
        theirs = _n_common(words, other, folder)
        if (theirs > own or not own) and (found := danger_signs(beginning, other, folder)):
            return found
    return ()


def _n_common(words: list[str], language: str, folder: Path | None) -> int:
    common = language_data(language, folder).common_words
    return sum(word in common for word in words)


def _signs_of(text: str, language: str, folder: Path | None) -> tuple[DangerSign, ...]:
    reading = read(text)
    data, rules = language_data(language, folder), danger_rules(language, folder)
    words = words_of(reading.plain, joins=data.joins, clause_words=clause_words(data))
    found = rules.phrases.find(words, mend=True, most=_KEPT)
    standing = standing_of(words, [each for each in found if each.value < N_CUES or each.value in rules.parts])
    hits = _Hits(words, found, standing)
    ages = list(_ages(words, hits, rules, data))
    for group, limit in rules.age_limits.items():
        for place, months in ages:
            if months < limit:
                hits.add(group, place, place + 1)
    spans: dict[str, tuple[_Hit, ...]] = {}
    for rule in rules.rules:
        if rule.sign not in spans and (parts := _holds(rule, hits)):
            spans[rule.sign] = parts
    for number in rules.numbers:
        if number.given.sign not in spans and (parts := _measured(number, hits, ages, data)):
            spans[number.given.sign] = parts
    return _signs(reading, words, spans)


def _holds(rule: Rule, hits: _Hits) -> tuple[_Hit, ...]:
    """The parts of a rule where it holds with at least one part present; () if nowhere."""
    if any(group not in hits.of for group in rule.groups):
        return ()
    if rule.topic and not hits.standing.somebody and len(hits.words) > _SHORT_TEXT:
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


def _present(rule: Rule, parts: list[_Hit]) -> bool:
    """Whether a part that is more than context is neither past nor imagined."""
    return any(not part.distant for part, context in zip(parts, rule.context, strict=True) if not context)


def _in_order(rule: Rule, hits: _Hits, first: _Hit) -> tuple[_Hit, ...]:
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


def _window(rule: Rule, words: Words, anchor: _Hit) -> tuple[int, int]:
    """The first and the last word at which the other parts of a rule may begin."""
    low, high = max(0, anchor.start - rule.reach), min(len(words) - 1, anchor.start + rule.reach)
    if not rule.across:
        sentence = words.sentences[anchor.start]
        low = max(low, bisect_left(words.sentences, sentence))
        high = min(high, bisect_left(words.sentences, sentence + 1) - 1)
    return low, high


def _number(form: str, number_words: dict[str, float]) -> float | None:
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


def _ages(words: Words, hits: _Hits, rules: Rules, data: Language) -> Iterator[tuple[int, float]]:
    """Place and months of each age of a text."""
    danger = data.danger
    months = {"days": 1 / 30.4, "weeks": 7 / 30.4, "months": 1.0, "years": 12.0}
    for unit, group in rules.ages.items():
        for hit in hits.of.get(group, []):
            place = hit.start - 1
            if place < 0 or words.sentences[place] != words.sentences[hit.start]:
                continue
            value = _number(words.forms[place], danger.number_words)
            if value is None or (place and words.forms[place - 1] in danger.age.not_before):
                continue
            yield place, value * months[unit]


def _measured(rule: NumberRule, hits: _Hits, ages: list[tuple[int, float]], data: Language) -> tuple[_Hit, ...]:
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
                value = _number(words.forms[place], data.danger.number_words)
                if value is None:
                    continue
                if rule.units is not None and not hits.near(rule.units, place + 1, place + 1):
                    continue
                low = given.at_least if given.at_least is not None else float("-inf")
                high = given.below if given.below is not None else float("inf")
                if low <= value < high and not (hit.distant or hits.standing.denied[place]):
                    return (hit, _Hit(place, place + 1, False))
                break  # the nearest number is the measured one
    return ()


def _signs(reading: Reading, words: Words, spans: dict[str, tuple[_Hit, ...]]) -> tuple[DangerSign, ...]:
    places = {
        sign: (words.starts[min(p.start for p in parts)], words.ends[max(p.end for p in parts) - 1])
        for sign, parts in spans.items()
    }
    offsets = reading.byte_offsets(place for pair in places.values() for place in pair)
    signs = []
    for sign, (start, end) in sorted(places.items(), key=lambda item: item[1]):
        shown = _as_written(reading, start, end)
        if len(shown) > _SHOWN:
            parts = sorted({(part.start, part.end) for part in spans[sign]})
            shown = " \u2026 ".join(_as_written(reading, words.starts[a], words.ends[b - 1]) for a, b in parts)
        signs.append(DangerSign(sign=sign, words=shown, start=offsets[start], end=offsets[end]))
    return tuple(signs)


def _as_written(reading: Reading, start: int, end: int) -> str:
    if reading.places is not None:
        start, end = reading.places[start], reading.places[end]
    return reading.text[start:end].encode("utf-8", "replace").decode()  # a record holds no lone surrogates
