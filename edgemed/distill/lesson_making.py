"""One lesson: an example's answer rendered for both sides and aligned, with what its teacher said of it.

read the answer's entities, render it for both sides, align the two
teacher's token scores       -> sums of chunks
entities on chunk boundaries -> what MedKL compares
teacher's likeliest tokens   -> rivals at places (rivals.py); those chunks then have no weight of their own
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgemed.core.errors import UsageError
from edgemed.distill.alignment import NO_CHUNK, Alignment, align
from edgemed.distill.config import LossConfig
from edgemed.distill.entity_spans import EntitySpan, read_answer
from edgemed.distill.examples import Example
from edgemed.distill.lesson import Floats, Ints, Lesson
from edgemed.distill.rendering import Rendered, Side
from edgemed.distill.rivals import RivalMap, Rivals
from edgemed.distill.shards import ScoredAnswer

TOO_LONG = "longer than data.max_tokens"
NO_ANSWER = "no answer of the teacher's was accepted"
OTHER_TOKENS = "scored as other tokens than the teacher's tokenizer gives now"
NO_SCORE = "a score that is no number"
MEASURES = ("concepts", "rarity", "reasoning", "numbers", "nll")
NO_ENTITY = -1
_ASCII = 128


@dataclass(frozen=True, slots=True)
class Made:
    """One lesson, without the rarity of its concepts, which only the whole corpus tells."""

    lesson: Lesson
    concepts: frozenset[str]
    entities: Counter[str]
    """Compared by MedKL, by kind."""
    entities_left_out: Counter[str]


class LessonMaker:
    """Makes the lessons of one student; without a teacher those of supervised fine-tuning alone.

    Raises UsageError for kd = "same" with two vocabularies.
    """

    def __init__(self, student: Side, teacher: Side | None, loss: LossConfig, max_tokens: int) -> None:
        self._student = student
        self._teacher = teacher
        self._loss = loss
        self._max_tokens = max_tokens
        self._rivals: RivalMap | None = None
        if teacher is not None and loss.kd != "none":
            self._rivals = RivalMap(student, teacher, loss.kd, digits=loss.digits)

    def make(self, number: int, example: Example, scored: ScoredAnswer | None) -> Made | str:
        """The lesson of one example; or in words why it cannot be taught."""
        try:
            return self._made(number, example, scored)
        except _LeftOut as reason:
            return str(reason)
        except UsageError as error:
            return error.what.rstrip(".")

    def _made(self, number: int, example: Example, scored: ScoredAnswer | None) -> Made:
        if self._teacher is not None and scored is None:
            raise _LeftOut(NO_ANSWER)
        answer = self._student.answer(example.answer)
        prompt = self._student.prompt(example.question, thinks=answer.thinking[0])
        if len(prompt) + len(answer.ids) > self._max_tokens:
            raise _LeftOut(TOO_LONG)
        reading = read_answer(answer.text)
        taught = _untaught(len(answer.ids))
        if self._teacher is not None and scored is not None:
            taught = self._taught(answer, _as_scored(self._teacher, example.answer, scored), scored, reading.spans)
        thinking = np.array(answer.thinking)
        nll = -taught.teacher.sum() / max(1, len(answer.text.encode()))
        measures = (len(reading.concepts), 0.0, thinking.sum(), reading.n_numbers, nll)
        lesson = Lesson(
            example=number,
            ids=np.array((*prompt, *answer.ids), np.int32),
            token_weights=np.where(thinking, self._loss.think_weight, 1).astype(np.float32),
            chunks=taught.chunks,
            teacher=taught.teacher,
            chunk_weights=taught.chunk_weights,
            entities=taught.entities.of_chunks,
            entity_weights=np.array(taught.entities.weights, np.float32),
            places=taught.rivals.places,
            place_weights=taught.place_weights,
            rival_ids=taught.rivals.ids,
            rival_log_probs=taught.rivals.log_probs,
            hidden=taught.hidden,
            measures={name: float(value) for name, value in zip(MEASURES, measures, strict=True)},
            kind=example.kind,
            specialty=example.specialty,
        )
        return Made(lesson, reading.concepts, taught.entities.compared, taught.entities.left_out)

    def _taught(self, answer: Rendered, theirs: Rendered, scored: ScoredAnswer, spans: Sequence[EntitySpan]) -> _Taught:
        """What the teacher adds."""
        alignment = align(answer.pieces, theirs.pieces)
        chunks, of_teacher = (np.array(side, np.int32) for side in (alignment.student, alignment.teacher))
        weights = np.ones(alignment.n_chunks, np.float32)
        weights[chunks[np.array(answer.thinking) & (chunks != NO_CHUNK)]] = self._loss.think_weight
        weights[_touched(alignment, spans)] *= self._loss.entity_weight
        whole = of_teacher != NO_CHUNK
        sums = np.bincount(of_teacher[whole], scored.log_probs[whole], alignment.n_chunks).astype(np.float32)
        rivals = _no_rivals(alignment.n_chunks)
        if self._rivals is not None:
            rivals = self._rivals.of(answer, scored, alignment, sums)
        in_detail = chunks[rivals.places]
        place_weights = weights[in_detail]
        weights[in_detail] = 0
        return _Taught(
            chunks=chunks,
            teacher=sums + rivals.moved,
            chunk_weights=weights,
            entities=_entities(alignment, answer.text.encode(), spans),
            rivals=rivals,
            place_weights=place_weights,
            hidden=_at_ends(scored.hidden, of_teacher, alignment.n_chunks),
        )


class _LeftOut(Exception):
    """An example that cannot be taught, and why."""


@dataclass(frozen=True, slots=True)
class _Entities:
    """The entities of one answer that both sides can be asked about."""

    of_chunks: Ints
    """(c,) as in Lesson."""
    weights: list[float] = field(default_factory=list)
    compared: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class _Taught:
    """The teacher's part of a lesson, by the names of Lesson."""

    chunks: Ints
    teacher: Floats
    chunk_weights: Floats
    entities: _Entities
    rivals: Rivals
    place_weights: Floats
    hidden: npt.NDArray[np.float16]


def chunks_of(alignment: Alignment, raw: bytes, span: EntitySpan) -> range | None:
    """The chunks of an entity of the text `raw`; None where its ends are no boundaries of both sides.

    Tokenizers bind a word to the blank or the bracket before it: that one character may come with it.
    """
    found = alignment.chunks_of(span.start, span.end)
    if found is None and span.start and raw[span.start - 1] < _ASCII and not chr(raw[span.start - 1]).isalnum():
        found = alignment.chunks_of(span.start - 1, span.end)
    return found


def _as_scored(teacher: Side, answer: str, scored: ScoredAnswer) -> Rendered:
    """The answer in the teacher's tokens, which must be those that were scored."""
    rendered = teacher.answer(answer)
    if not np.array_equal(scored.ids, rendered.ids):
        raise _LeftOut(OTHER_TOKENS)
    if not np.isfinite(scored.log_probs).all():
        raise _LeftOut(NO_SCORE)
    return rendered


def _entities(alignment: Alignment, raw: bytes, spans: Sequence[EntitySpan]) -> _Entities:
    found = _Entities(np.full(alignment.n_chunks, NO_ENTITY, np.int32))
    for span in spans:
        chunks = chunks_of(alignment, raw, span)
        if chunks is None or (found.of_chunks[chunks.start : chunks.stop] != NO_ENTITY).any():
            found.left_out[span.kind] += 1
            continue
        found.of_chunks[chunks.start : chunks.stop] = len(found.weights)
        found.weights.append(span.weight)
        found.compared[span.kind] += 1
    return found


def _touched(alignment: Alignment, spans: Sequence[EntitySpan]) -> npt.NDArray[np.bool_]:
    """The chunks (c,) that hold any byte of a span."""
    found = np.zeros(alignment.n_chunks, np.bool_)
    for span in spans:
        found[bisect_right(alignment.ends, span.start) : bisect_left(alignment.ends, span.end) + 1] = True
    return found


def _at_ends(hidden: npt.NDArray[np.float16], chunks: Ints, n_chunks: int) -> npt.NDArray[np.float16]:
    """Hidden states (c, Ht) of the last token of each chunk; (0, 0) without."""
    if not hidden.size:
        return np.zeros((0, 0), np.float16)
    last = np.zeros(n_chunks, np.int64)
    np.maximum.at(last, chunks[chunks != NO_CHUNK], np.flatnonzero(chunks != NO_CHUNK))
    return hidden[last]


def _untaught(n_tokens: int) -> _Taught:
    """Of an answer without a teacher."""
    nothing, none = np.zeros(0, np.float32), np.zeros(0, np.int32)
    chunks = np.full(n_tokens, NO_CHUNK, np.int32)
    return _Taught(chunks, nothing, nothing, _Entities(none), _no_rivals(0), nothing, np.zeros((0, 0), np.float16))


def _no_rivals(n_chunks: int) -> Rivals:
    nothing = np.zeros((0, 0), np.float32)
    return Rivals(np.zeros(0, np.int32), nothing.astype(np.int32), nothing, np.zeros(n_chunks, np.float32))
