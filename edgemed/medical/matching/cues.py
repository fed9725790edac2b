"""How the words of a text stand: denied, long past, imagined, taught about, or here and now.

Decided from a language's cue phrases alone, by simple rules that end at punctuation; when in doubt a word stands
as present.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, auto
from functools import cache
from pathlib import Path

from edgemed.medical.language import Cues, Language, language_data
from edgemed.medical.matching.phrases import Found, Phrases, Words

NARROW, WIDE, BACK = 5, 14, 8
"""Words that a negation reaches forwards ("not"; "denies") and backwards ("ruled out"), if nothing ends it before."""
_LIST_CLAUSES, _LIST_WORDS = 5, 5  # of a list such as "no cough, fever, rash or pain"
_LEAD_WORDS = 6  # a clause of time alone, such as "two years ago,"


class CueKind(IntEnum):
    """The fields of `Cues`, as numbers of a matcher."""

    CLAUSE_WORDS = 0
    NEGATION = auto()
    NEGATION_WIDE = auto()
    NEGATION_AFTER = auto()
    NOT_NEGATION = auto()
    AND_WORDS = auto()
    OR_WORDS = auto()
    PAST = auto()
    PAST_TIME = auto()
    OVER = auto()
    HYPOTHETICAL = auto()
    NOT_HYPOTHETICAL = auto()
    GENERAL = auto()
    EDUCATION = auto()
    OTHER_SENSE = auto()
    PATIENT = auto()
    ANYONE = auto()
    PRESENT = auto()
    PRESENT_VERBS = auto()


N_CUES = len(CueKind)
"""Values below it are cues; a matcher's own values begin here."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One byte a word: 1 where it is so."""

    denied: bytearray
    """Negated."""
    elsewhere: bytearray
    """Used in another sense: "a stroke of luck"."""
    distant: bytearray
    """Long past, imagined, taught about or asked in general."""
    somebody: bool
    """Whether the text speaks of a person or of the present time at all."""


def cue_phrases(cues: Cues) -> dict[str, tuple[int, ...]]:
    """The phrases of all cues with the numbers of their kinds."""
    phrases: dict[str, tuple[int, ...]] = {}
    for kind in CueKind:
        for phrase in getattr(cues, kind.name.lower()):
            phrases[phrase] = (*phrases.get(phrase, ()), int(kind))
    return phrases


@cache
def cue_matcher(language: str, folder: Path | None = None) -> Phrases:
    """A matcher of a language's cues alone."""
    data = language_data(language, folder)
    return Phrases(
        cue_phrases(data.cues),
        joins=data.joins,
        number_words=data.danger.number_words,
        prefixes=data.verb_prefixes.by_sign(),
    )


def clause_words(data: Language) -> frozenset[str]:
    """The single words that begin a clause in a language."""
    return frozenset(data.cues.clause_words)


def standing_of(words: Words, found: Sequence[Found]) -> Standing:
    """How each word stands, from the phrases found; linear.

    Values under `N_CUES` are cues; the others are a caller's own, and a negation inside one of them
    ("not breathing") belongs to it and denies nothing else.
    """
    n_words = len(words)
    kinds: dict[CueKind, list[Found]] = {kind: [] for kind in CueKind}
    own = bytearray(n_words)
    for each in found:
        if each.value < N_CUES:
            kinds[CueKind(each.value)].append(each)
        elif each.end - each.start > 1:
            _mark(own, each.start, each.end)
    denied, elsewhere, distant = bytearray(n_words), bytearray(n_words), bytearray(n_words)
    for cue in kinds[CueKind.OTHER_SENSE]:
        _mark(elsewhere, cue.start, cue.end)
    _deny(words, kinds, own, denied)
    here = _Here(words, kinds)
    _past(words, kinds, here, distant)
    _hypothetical(words, kinds, here, distant)
    _frames(words, kinds, here, distant)
    return Standing(denied, elsewhere, distant, bool(here.present or here.patient))


def _mark(flags: bytearray, start: int, end: int) -> None:
    flags[start:end] = b"\x01" * (end - start)


class _Here:
    """Where the text speaks of the present time or of a certain person."""

    def __init__(self, words: Words, kinds: dict[CueKind, list[Found]]) -> None:
        self.present = [cue.start for cue in kinds[CueKind.PRESENT]]
        anyone = {place for cue in kinds[CueKind.ANYONE] for place in range(cue.start, cue.end)}
        self.patient = [
            cue.start for cue in kinds[CueKind.PATIENT] if not (cue.start in anyone and cue.end - 1 in anyone)
        ]
        self.present.sort()
        self.present_clauses = {words.clauses[place] for place in self.present}
        self.present_sentences = {words.sentences[place] for place in self.present}
        self.patient_sentences = {words.sentences[place] for place in self.patient}
        self.last_present: dict[int, int] = {words.sentences[place]: place for place in self.present}

    def between(self, start: int, end: int) -> bool:
        """Whether one of words[start:end] begins a phrase of the present."""
        place = bisect_left(self.present, start)
        return place < len(self.present) and self.present[place] < end


def _deny(words: Words, kinds: dict[CueKind, list[Found]], masked: bytearray, denied: bytearray) -> None:
    """`masked`: words at which no negation begins, one byte a word."""
    for cue in kinds[CueKind.NOT_NEGATION]:
        _mark(masked, cue.start, cue.end)
    ends = {cue.start for cue in kinds[CueKind.AND_WORDS]}
    ors = {cue.start for cue in kinds[CueKind.OR_WORDS]}
    forward = [(cue, NARROW) for cue in kinds[CueKind.NEGATION]] + [(cue, WIDE) for cue in kinds[CueKind.NEGATION_WIDE]]
    starts = {cue.start for cue, _ in forward if not masked[cue.start]}
    for cue, reach in forward:
        if not masked[cue.start]:
            _deny_forward(words, cue, reach, starts, ends if reach == NARROW else set(), ors, denied)
    for cue in kinds[CueKind.NEGATION_AFTER]:
        place = cue.start
        if masked[place]:
            continue
        while place > 0 and cue.start - place < BACK and words.clauses[place - 1] == words.clauses[cue.start]:
            place -= 1
        _mark(denied, place, cue.start)


def _deny_forward(
    words: Words, cue: Found, reach: int, starts: set[int], stops: set[int], ors: set[int], denied: bytearray
) -> None:
    """Denies what follows a cue to the clause's end, another cue or a stop; over commas in a list closed by "or"."""
    place, clause = cue.end, words.clauses[cue.end - 1]
    while place < len(words) and place - cue.end < reach and words.clauses[place] == clause:
        if place in starts or place in stops:
            return
        denied[place] = 1
        place += 1
    if place >= len(words) or words.clauses[place] == clause or words.sentences[place] != words.sentences[cue.start]:
        return
    listed = place
    for _ in range(_LIST_CLAUSES):
        clause, first = words.clauses[listed], listed
        while listed < len(words) and words.clauses[listed] == clause and listed not in starts:
            listed += 1
            if listed - first > _LIST_WORDS:
                return
        if any(word in ors for word in range(first, listed)):
            _mark(denied, place, listed)
            return
        if listed == first or listed >= len(words) or words.sentences[listed] != words.sentences[cue.start]:
            return


def _past(words: Words, kinds: dict[CueKind, list[Found]], here: _Here, distant: bytearray) -> None:
    """A clause with a cue of the past is distant, and what stands before a word that says it is over."""
    bounds = _clause_bounds(words)
    spoken = {words.clauses[cue.start] for cue in kinds[CueKind.PRESENT_VERBS]} | here.present_clauses
    for clause in {words.clauses[cue.start] for cue in kinds[CueKind.PAST]} - spoken:
        _mark(distant, *bounds[clause])
    for cue in kinds[CueKind.PAST_TIME]:
        _past_time(words, cue, bounds, here, distant)
    for cue in kinds[CueKind.OVER]:
        clause = words.clauses[cue.start]
        for _ in range(_LIST_CLAUSES):
            start, end = bounds[clause]
            if words.sentences[start] != words.sentences[cue.start] or here.between(start, min(end, cue.start)):
                break
            _mark(distant, start, min(end, cue.start))
            if not start:
                break
            clause = words.clauses[start - 1]


def _past_time(words: Words, cue: Found, bounds: dict[int, tuple[int, int]], here: _Here, distant: bytearray) -> None:
    """A time long ago: its clause is distant on each side where nothing is of the present; alone, its neighbour too."""
    clause = words.clauses[cue.start]
    start, end = bounds[clause]
    if not here.between(start, cue.start):
        _mark(distant, start, cue.end)
    if not here.between(cue.end, end):
        _mark(distant, cue.end, end)
    if end - start > _LEAD_WORDS or here.between(start, end):
        return
    sentence = words.sentences[start]
    before = bounds[words.clauses[start - 1]] if start else None
    after = bounds[words.clauses[end]] if end < len(words) else None
    neighbour = after if before is None or words.sentences[before[0]] != sentence else before
    if neighbour and words.sentences[neighbour[0]] == sentence and not here.between(*neighbour):
        _mark(distant, *neighbour)


def _clause_bounds(words: Words) -> dict[int, tuple[int, int]]:
    bounds: dict[int, tuple[int, int]] = {}
    for place, clause in enumerate(words.clauses):
        bounds[clause] = (bounds[clause][0] if clause in bounds else place, place + 1)
    return bounds


def _hypothetical(words: Words, kinds: dict[CueKind, list[Found]], here: _Here, distant: bytearray) -> None:
    masked = {place for cue in kinds[CueKind.NOT_HYPOTHETICAL] for place in range(cue.start, cue.end)}
    done = -1  # the sentence that is marked already: one cue is enough
    for cue in kinds[CueKind.HYPOTHETICAL]:
        sentence = words.sentences[cue.start]
        if cue.start in masked or sentence == done or here.last_present.get(sentence, -1) >= cue.end:
            continue
        done, place = sentence, cue.end
        while place < len(words) and words.sentences[place] == sentence:
            distant[place] = 1
            place += 1


def _frames(words: Words, kinds: dict[CueKind, list[Found]], here: _Here, distant: bytearray) -> None:
    """A general sentence is distant unless it speaks of somebody; one of a text that teaches, unless of the present."""
    general = {words.sentences[cue.start] for cue in kinds[CueKind.GENERAL]}
    general -= here.present_sentences | here.patient_sentences
    teaches = bool(kinds[CueKind.EDUCATION])
    for place, sentence in enumerate(words.sentences):
        if sentence in general or (teaches and sentence not in here.present_sentences):
            distant[place] = 1
