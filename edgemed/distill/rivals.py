"""What else the teacher might have said, in the student's vocabulary.

Where one token of the teacher's is one of the student's, rivals are mapped by equal bytes; what cannot be mapped falls
to the rest. A numeral that the teacher packs and the student spells is taught digit by digit (digits.py): each digit's
ten rivals have their probabilities given the digits before, all else is the rest.

That a numeral ends is part of the teacher's token, but the student says so with the token behind it: "25" may be 25 or
the beginning of 250. So END moves there. What the teacher says of the token behind is made less likely by it, and the
ten digits that would go on are its rivals. Taken together the log-probabilities of a text stay what they were.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgemed.core.errors import UsageError
from edgemed.distill.alignment import Alignment
from edgemed.distill.config import KdForm
from edgemed.distill.lesson import Floats, Ints
from edgemed.distill.rendering import Rendered, Side
from edgemed.distill.shards import ScoredAnswer

NONE = -1
_NOTHING = -math.inf


@dataclass(frozen=True, slots=True)
class Rivals:
    """m places of one answer with up to k rivals each."""

    places: Ints
    """(m,) tokens of the student's answer, rising."""
    ids: Ints
    """(m, k); NONE where there are fewer."""
    log_probs: Floats
    """(m, k); -inf where there are fewer."""
    moved: Floats
    """(c,) to be added to the teacher's log-probabilities of chunks: ENDs, from numerals to what is behind them."""


@dataclass(frozen=True, slots=True)
class _Numeral:
    """One of the teacher's tokens that the student spells."""

    place: int
    """Of its first digit."""
    chunk: int
    digits: str
    kept: list[tuple[str, float]]
    """The numerals among the likeliest tokens and their log-probabilities; the last is itself, by its own score."""

    def log_end(self) -> float:
        """Log-probability that it ends behind its digits."""
        begun = [value for other, value in self.kept if other.startswith(self.digits)]
        return self.kept[-1][1] - _log_sum(begun)


class RivalMap:
    """From the teacher's vocabulary to the student's. Raises UsageError when kd is "same" and they are two."""

    def __init__(self, student: Side, teacher: Side, kd: KdForm, *, digits: bool) -> None:
        one = student.vocabulary() == teacher.vocabulary() and student.role_ids() == teacher.role_ids()
        if kd == "same" and not one:
            raise UsageError(
                'loss.kd = "same" needs one vocabulary, and those of teacher and student differ.',
                next_step='set kd = "chunks": it compares texts instead of tokens',
            )
        self._to = _by_bytes(student, teacher)
        numerals, digit_ids = _numerals(teacher), {d: n for n, d in _numerals(student).items()}
        spells = set(digit_ids) == set("0123456789")
        packs = any(len(numeral) > 1 for numeral in numerals.values())
        self._numerals = numerals if digits and packs and spells else {}
        self._digits = np.array([digit_ids.get(str(digit), NONE) for digit in range(10)], np.int32)

    def of(self, student: Rendered, scored: ScoredAnswer, alignment: Alignment, teacher: Floats) -> Rivals:
        """The rivals of an answer where the teacher's are kept. Chunks of several tokens have none, but numerals.

        `teacher` (c,) are its log-probabilities of chunks.
        """
        rows = dict(self._at_tokens(student, scored, alignment))
        numerals = list(self._spelled(scored, alignment))
        for numeral in numerals:
            for number in range(len(numeral.digits)):
                rows[numeral.place + number] = self._digits_behind(numeral.kept, numeral.digits[:number])
        moved = np.zeros(alignment.n_chunks, np.float32)
        lonely = _lonely(alignment.student) if numerals else {}
        for numeral in numerals:
            behind = numeral.place + len(numeral.digits)
            chunk = alignment.student[behind] if behind < len(alignment.student) else NONE
            end = numeral.log_end()
            if end == 0 or chunk == NONE:
                continue
            moved[numeral.chunk] -= end
            moved[chunk] += end
            if behind not in rows and lonely.get(chunk) == behind:  # of several tokens of the teacher's
                rows[behind] = np.array(student.ids[behind : behind + 1], np.int32), teacher[chunk : chunk + 1]
            if behind in rows:
                (ids, log_probs), (more, ways) = rows[behind], self._digits_behind(numeral.kept, numeral.digits)
                rows[behind] = _merged(np.append(ids, more), np.append(log_probs + np.float32(end), ways))
        width = max((len(ids) for ids, _ in rows.values()), default=0)
        found = Rivals(
            np.array(sorted(rows), np.int32),
            np.full((len(rows), width), NONE, np.int32),
            np.full((len(rows), width), _NOTHING, np.float32),
            moved,
        )
        for row, place in enumerate(found.places.tolist()):
            ids, log_probs = rows[place]
            found.ids[row, : len(ids)] = ids
            found.log_probs[row, : len(ids)] = log_probs
        return found

    def _at_tokens(self, student: Rendered, scored: ScoredAnswer, alignment: Alignment) -> Iterator[tuple[int, _Row]]:
        """Places where one token is one token."""
        own, theirs = _lonely(alignment.student), _lonely(alignment.teacher)
        rows = [
            (row, own[chunk], token)
            for row, token in enumerate(scored.places.tolist())
            if (chunk := alignment.teacher[token]) in own
            and chunk in theirs
            and int(scored.ids[token]) not in self._numerals
        ]
        if not rows:
            return
        top = scored.top_ids[[row for row, _, _ in rows]]
        known = (top >= 0) & (top < len(self._to))
        mapped = np.where(known, self._to[np.where(known, top, 0)], NONE)
        log_probs = scored.top_log_probs[[row for row, _, _ in rows]].astype(np.float32)
        for (_, place, token), ids, values in zip(rows, mapped, log_probs, strict=True):
            actual = student.ids[place]
            # The actual token's own score is exact, and it may not be among the likeliest.
            keep = (ids != NONE) & (ids != actual)
            yield place, _merged(np.append(ids[keep], actual), np.append(values[keep], scored.log_probs[token]))

    def _spelled(self, scored: ScoredAnswer, alignment: Alignment) -> Iterator[_Numeral]:
        """The packed numerals of an answer whose rivals are kept."""
        if not self._numerals:
            return
        first = {chunk: place for place, chunk in reversed(list(enumerate(alignment.student)))}
        theirs = _lonely(alignment.teacher)
        for row, token in enumerate(scored.places.tolist()):
            digits = self._numerals.get(int(scored.ids[token]))
            chunk = alignment.teacher[token]
            if digits is None or chunk not in theirs or chunk not in first:
                continue
            kept = [
                (numeral, value)
                for other, value in zip(scored.top_ids[row].tolist(), scored.top_log_probs[row].tolist(), strict=True)
                if (numeral := self._numerals.get(other)) is not None and numeral != digits and value > _NOTHING
            ]
            kept.append((digits, float(scored.log_probs[token])))
            yield _Numeral(first[chunk], chunk, digits, kept)

    def _digits_behind(self, kept: Sequence[tuple[str, float]], prefix: str) -> _Row:
        ways = np.array(next_digit(kept, prefix), np.float32)
        possible = ways > _NOTHING
        return self._digits[possible], ways[possible]


_Row = tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]


def next_digit(kept: Sequence[tuple[str, float]], prefix: str) -> list[float]:
    """Log-probabilities of each of ten digits behind a prefix, of numerals with theirs; of the first, not conditional.

    Over the digits of a numeral and its END they add up to its own, whatever else is kept: prefixes cancel.
    """
    under: list[list[float]] = [[] for _ in range(10)]
    at = len(prefix)
    whole = []
    for numeral, value in kept:
        if numeral.startswith(prefix):
            whole.append(value)
            if len(numeral) > at:
                under[int(numeral[at])].append(value)
    given = _log_sum(whole) if prefix else 0.0
    return [_log_sum(values) - given if values else _NOTHING for values in under]


def _log_sum(values: Sequence[float]) -> float:
    most = max(values, default=_NOTHING)
    return most + math.log(sum(math.exp(value - most) for value in values)) if most > _NOTHING else _NOTHING


def _merged(ids: npt.NDArray[np.int32], values: npt.NDArray[np.float32]) -> _Row:
    """Each id once: two tokens of the teacher's may have the same bytes."""
    apart = np.unique(ids)
    if len(apart) == len(ids):
        return ids.astype(np.int32), values.astype(np.float32)
    sums = [np.logaddexp.reduce(values[ids == one]) for one in apart]
    return apart.astype(np.int32), np.array(sums, np.float32)


def _lonely(chunks: Sequence[int]) -> dict[int, int]:
    """The token of each chunk that has but one."""
    found: dict[int, int] = {}
    many: set[int] = {NONE}
    for token, chunk in enumerate(chunks):
        if chunk in many:
            continue
        if chunk in found:
            del found[chunk]
            many.add(chunk)
        else:
            found[chunk] = token
    return found


def _by_bytes(student: Side, teacher: Side) -> npt.NDArray[np.int32]:
    """The student's token (teacher's vocabulary,) of the same bytes or the same role; NONE without."""
    known: dict[bytes, int] = {}
    for token, data in enumerate(student.vocabulary()):
        if data:
            known.setdefault(data, token)
    found = np.array([known.get(data, NONE) if data else NONE for data in teacher.vocabulary()], np.int32)
    own, theirs = student.role_ids(), teacher.role_ids()
    for role in own.keys() & theirs.keys():
        found[theirs[role]] = own[role]
    return found


def _numerals(side: Side) -> dict[int, str]:
    return {token: data.decode() for token, data in enumerate(side.vocabulary()) if data.isdigit()}
