"""Danger signs in a text: somebody who needs help at once, whatever the question's category.

Two readers look at a text. Rules and cues are data (`languages/<code>.toml`); negation, the long past, teaching and
"what if" are told apart from somebody present by `cues`. A learned reader (`weights/danger_<code>.json`, made by
`benchmarks/medical/train_danger.py`) weighs all words together with what the rules found: it adds a sign that no rule
names, called `UNCLEAR`, and silences a rule's find that it holds for harmless. When in doubt, a sign counts: a missed
one costs more than a false alarm.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from edgemed.core.records import Record
from edgemed.medical.language import DEFAULT_LANGUAGE, language_data, languages
from edgemed.medical.matching.cues import CueKind
from edgemed.medical.matching.danger_features import Piece, pieces_of
from edgemed.medical.matching.danger_findings import Findings, Hit, findings_of
from edgemed.medical.matching.linear import LinearWeights, shipped_weights
from edgemed.medical.reading import Reading, read

UNCLEAR = "unclear"
"""The slug of a sign that the learned reader sees alone."""
HEAD, TAIL = 10_000, 2_000
"""Characters of a long text that are read for danger signs: a question has a few hundred."""
OTHERS_READ = 1000
"""Of these, so many are read in a language that was not chosen."""
MARGIN, PRESENT_MARGIN = 0.75, 4.0
"""Log odds below the threshold at which a rule's find is silenced; so if its clause speaks of now or of somebody."""
_FEW = 4  # words: in fewer the learned reader alone proves nothing
_WORD = re.compile(r"[a-z]+")
_SHOWN = 80  # characters of a sign's words shown whole
_AROUND = 4  # words shown on each side of the most alarming ones of a long clause


class DangerSign(Record):
    """A danger sign found: its slug, the words as written, and their place in UTF-8 bytes of the text."""

    sign: str
    words: str
    start: int
    end: int


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
        if theirs > own or not own:
            found = danger_signs(beginning, other, folder)
            if theirs <= own:  # a few words that belong to no language: the learned reader alone proves nothing
                found = tuple(sign for sign in found if sign.sign != UNCLEAR)
            if found:
                return found
    return ()


def _n_common(words: list[str], language: str, folder: Path | None) -> int:
    common = language_data(language, folder).common_words
    return sum(word in common for word in words)


def _signs_of(text: str, language: str, folder: Path | None) -> tuple[DangerSign, ...]:
    reading = read(text)
    findings = findings_of(reading.plain, language, folder)
    weights = shipped_weights(f"danger_{language}")
    if weights is None:
        return _signs(reading, findings, findings.signs)
    judged = [
        (piece, weights.scores(dict.fromkeys((*piece.places, *piece.found), 1.0))[0])
        for piece in pieces_of(findings, language, folder)
    ]
    signs = findings.signs
    if not (folder is not None and (folder / f"{language}.toml").is_file()):  # a clinic's own rules always count
        signs = {sign: parts for sign, parts in signs.items() if not _silenced(sign, parts, findings, judged)}
    if signs or len(findings.words) < _FEW:
        return _signs(reading, findings, signs)
    piece, score = max(judged, key=lambda pair: pair[1])
    return (_unclear(reading, findings, piece, weights),) if score >= 0 else ()


def _silenced(sign: str, parts: tuple[Hit, ...], findings: Findings, judged: list[tuple[Piece, float]]) -> bool:
    """Whether the learned reader holds the piece of a sign for harmless; a sure sign is never silenced."""
    if sign in findings.measured:
        return False
    margin = MARGIN
    if _is_present(parts, findings):
        if len(findings.signs) > 1:
            return False
        margin = PRESENT_MARGIN
    return any(piece.start <= parts[0].start < piece.end and score < -margin for piece, score in judged)


def _is_present(parts: tuple[Hit, ...], findings: Findings) -> bool:
    """Whether nothing of a sign is distant, and a clause of it speaks of the present or of a person."""
    if any(part.distant for part in parts):
        return False
    clauses = {findings.words.clauses[part.start] for part in parts}
    here = (CueKind.PRESENT, CueKind.PATIENT)
    return any(cue.value in here and findings.words.clauses[cue.start] in clauses for cue in findings.cues)


def _unclear(reading: Reading, findings: Findings, piece: Piece, weights: LinearWeights) -> DangerSign:
    """A sign without a name: the words of the clause that speaks most for danger."""
    words = findings.words
    addends = weights.contributions(dict.fromkeys(piece.places, 1.0), weights.classes[0])
    clauses: dict[int, float] = {}
    for feature, addend in addends.items():
        clause = words.clauses[piece.places[feature][0]]
        clauses[clause] = clauses.get(clause, 0.0) + addend
    clause = max(clauses, key=lambda its: clauses[its], default=words.clauses[piece.start])
    start, end = _clause(words.clauses, clause, piece)
    if words.ends[end - 1] - words.starts[start] > _SHOWN:
        within = {f: a for f, a in addends.items() if start <= piece.places[f][0] < end}
        first, last = piece.places[max(within, key=lambda its: within[its])]
        start, end = max(start, first - _AROUND), min(end, last + _AROUND)
    (sign,) = _signs(reading, findings, {UNCLEAR: (Hit(start, end, False),)})
    return sign


def _clause(clauses: list[int], clause: int, piece: Piece) -> tuple[int, int]:
    places = [place for place in range(piece.start, piece.end) if clauses[place] == clause]
    return places[0], places[-1] + 1


def _signs(reading: Reading, findings: Findings, spans: Mapping[str, tuple[Hit, ...]]) -> tuple[DangerSign, ...]:
    words = findings.words
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
