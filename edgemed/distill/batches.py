"""Which lessons a step learns from, as tensors: a function of the step's number and the seed, of nothing that happened.

A step's lessons are dealt to micro-batches, and these in turn to processes. Each micro-batch carries what all of the
step weighs (`whole`), for that follows from the lessons alone: sums are divided once, and any number of micro-batches
or processes comes to the same loss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypedDict, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from edgemed.core.errors import UsageError
from edgemed.distill.config import CurriculumConfig, LossConfig
from edgemed.distill.lesson import Lesson
from edgemed.distill.schedule import competence, difficulty, drawn, eligible

TERMS = ("ce", "kd", "mse", "med_kl", "retention")
"""The terms of equation (6), in the order of every tensor that has one number for each."""
_DRAWS = 4
"""Independent streams of draws under one seed."""


class Batch(TypedDict):
    """One micro-batch: b lessons of at most l tokens, p tokens of answers, c chunks, e entities, q of replay.

    Texts are padded at their end, where nothing that is read can see it, so there is no attention mask. "Flat" places
    count through (b, l).
    """

    ids: Tensor
    """(b, l) int64."""
    at: Tensor
    """(p,) flat place that predicts each token of an answer: the one before it."""
    tokens: Tensor
    """(p,) the token itself."""
    token_weights: Tensor
    """(p,) float32."""
    chunks: Tensor
    """(p,) chunk of the token, through all lessons; -1 for none."""
    teacher: Tensor
    """(c,) float32 log-probability of each chunk."""
    chunk_weights: Tensor
    """(c,) float32."""
    chunk_ends: Tensor
    """(c,) flat place of the chunk's last token."""
    entities: Tensor
    """(c,) entity of the chunk, through all lessons; -1 for none."""
    entity_weights: Tensor
    """(e,) float32."""
    rivals: Tensor
    """(p, k) of the student's vocabulary; -1 where there is none. k is 0 without distillation."""
    rival_log_probs: Tensor
    """(p, k) float32."""
    place_weights: Tensor
    """(p,) float32, 0 where no rivals are known."""
    hidden: Tensor
    """(c, teacher's hidden size) float32, or (0, 0)."""
    hidden_weights: Tensor
    """(c,) float32."""
    replay_rows: Tensor
    """The lessons that the student before its training reads as well; one at least if the step replays at all, so that
    all processes do the same."""
    replay: Tensor
    """(q,) which of the p tokens are replay."""
    replay_then: Tensor
    """(q,) the same places, flat in those lessons alone."""
    whole: Tensor
    """(5,) float32: what each of TERMS weighs in all of the step."""


def coefficients(loss: LossConfig) -> tuple[float, ...]:
    """What each of TERMS counts."""
    kd = loss.kd_weight if loss.kd != "none" else 0.0
    return (loss.ce, kd, loss.mse, loss.med_kl, loss.retention)


def weights_of(lesson: Lesson, loss: LossConfig) -> npt.NDArray[np.float64]:
    """(5,) what one lesson adds to each of TERMS; 0 for what `loss` leaves out."""
    replayed = len(lesson.token_weights) if lesson.kind == "replay" else 0
    found = (
        lesson.token_weights.sum(dtype=np.float64),
        lesson.chunk_weights.sum(dtype=np.float64) + lesson.place_weights.sum(dtype=np.float64),
        len(lesson.hidden),
        lesson.entity_weights.sum(dtype=np.float64),
        replayed,
    )
    return np.where(np.array(coefficients(loss)) > 0, found, 0.0)


@dataclass(frozen=True)
class Curriculum:
    """Which lessons each step of a stage learns from."""

    lessons: Sequence[Lesson]
    config: CurriculumConfig
    n_steps: int
    per_step: int
    """Lessons of a step."""
    seed: int
    replays: bool = False
    """Replay is wanted in every step (retention), not in the last part alone."""

    def at(self, step: int) -> list[int]:
        """The numbers of a step's lessons."""
        n_replay = self._n_replay(step)
        found = [int(self._taught[one]) for one in self._drawn(step, self.per_step - n_replay)]
        if n_replay:
            chosen = drawn(step, n_replay, np.ones(len(self._replay)), self.seed * _DRAWS + 1)
            found += [int(self._replay[one]) for one in chosen]
        return found

    def _drawn(self, step: int, size: int) -> npt.NDArray[np.int64]:
        weights = self.weights(step)
        if np.ptp(weights) > 0:
            return drawn(step, size, weights, self.seed * _DRAWS)
        # Nothing to prefer: one permutation of all lessons after another, so that each comes as often as any other.
        places = np.arange(step * size, (step + 1) * size)
        rounds = {int(n): self._permutation(int(n)) for n in np.unique(places // len(weights))}
        return np.array([rounds[int(p // len(weights))][p % len(weights)] for p in places])

    def _permutation(self, number: int) -> npt.NDArray[np.int64]:
        random = np.random.Generator(np.random.Philox(key=self.seed * _DRAWS + 2, counter=[0, 0, 0, number]))
        return random.permutation(len(self._taught))

    def weights(self, step: int) -> npt.NDArray[np.float64]:
        """(lessons that are not replay,): how readily each is drawn at a step; 0 is not at all."""
        curriculum, found = self.config, np.ones(len(self._taught))
        if curriculum.progressive and self._difficulty is not None:
            share = competence(step, self.n_steps, curriculum.start_competence)
            found *= eligible(self._difficulty, share)
        if curriculum.basic_first:
            left = max(0.0, 1 - 2 * step / self.n_steps)
            found[self._basic] *= 1 + (curriculum.basic_weight - 1) * left
        if self._is_last_part(step):
            found *= self._rarity
        return found

    def _n_replay(self, step: int) -> int:
        wanted = self.replays or self._is_last_part(step)
        if not (wanted and len(self._replay) and self.config.replay_share > 0):
            return 0
        return min(self.per_step - 1, max(1, round(self.config.replay_share * self.per_step)))

    def _is_last_part(self, step: int) -> bool:
        return self.config.specialised and step >= (1 - self.config.specialised_share) * self.n_steps

    @cached_property
    def _taught(self) -> npt.NDArray[np.int64]:
        return np.array([n for n, lesson in enumerate(self.lessons) if lesson.kind != "replay"], dtype=np.int64)

    @cached_property
    def _replay(self) -> npt.NDArray[np.int64]:
        return np.array([n for n, lesson in enumerate(self.lessons) if lesson.kind == "replay"], dtype=np.int64)

    @cached_property
    def _basic(self) -> npt.NDArray[np.bool_]:
        return np.array([self.lessons[n].kind == "basic" for n in self._taught], dtype=bool)

    @cached_property
    def _rarity(self) -> npt.NDArray[np.float64]:
        # By the root of a specialty's size: drawn more often, but a handful of texts not by heart.
        sizes = Counter(self.lessons[n].specialty for n in self._taught)
        return np.array([sizes[self.lessons[n].specialty] ** -0.5 for n in self._taught])

    @cached_property
    def _difficulty(self) -> npt.NDArray[np.float64] | None:
        measures = [self.lessons[n].measures for n in self._taught]
        names = sorted(set.intersection(*(set(one) for one in measures)))
        return difficulty({name: [one[name] for one in measures] for name in names}) if names else None


@dataclass(frozen=True)
class Steps(Dataset[Batch]):  # type: ignore[misc]  # torch is not read by mypy
    """All micro-batches of a stage in order: number `step * n_micro + m` is micro-batch m of a step.

    Raises UsageError when there is nothing to teach, or fewer lessons in a step than micro-batches.
    """

    curriculum: Curriculum
    loss: LossConfig
    n_micro: int
    pad: int
    """The token behind the end of shorter texts."""
    _last: dict[int, list[list[int]]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if all(lesson.kind == "replay" for lesson in self.curriculum.lessons):
            raise UsageError(
                f"There is nothing to teach: none of {len(self.curriculum.lessons)} lessons is more than replay.",
                next_step="look at what the lessons' report says was left out, and why",
            )
        if self.n_micro > self.curriculum.per_step:
            raise UsageError(
                f"A step of {self.curriculum.per_step} examples cannot be cut into {self.n_micro} micro-batches.",
                next_step="lower training.micro_batches, or raise examples_per_step of the stage",
            )

    def __len__(self) -> int:
        return self.curriculum.n_steps * self.n_micro

    def __getitem__(self, index: int) -> Batch:
        step, m = divmod(index, self.n_micro)
        lessons = self.curriculum.lessons
        whole = sum((weights_of(lessons[n], self.loss) for n in self.numbers(step)), np.zeros(len(TERMS)))
        return collate([lessons[n] for n in self._dealt(step)[m]], self.loss, whole, self.pad)

    def numbers(self, step: int) -> list[int]:
        """The lessons of a step."""
        return [number for part in self._dealt(step) for number in part]

    def examples(self, step: int) -> list[int]:
        """The corpus's numbers of a step's examples, rising."""
        return sorted(self.curriculum.lessons[n].example for n in self.numbers(step))

    def n_tokens(self, step: int) -> int:
        """Tokens of a step, without padding."""
        return sum(len(self.curriculum.lessons[n].ids) for n in self.numbers(step))

    def _dealt(self, step: int) -> list[list[int]]:
        """By length, the longest first: little padding, and what does not fit the memory shows at once."""
        if step not in self._last:
            numbers = self.curriculum.at(step)
            numbers.sort(key=lambda n: (-len(self.curriculum.lessons[n].ids), n))
            self._last.clear()
            self._last[step] = [[int(n) for n in part] for part in np.array_split(np.array(numbers), self.n_micro)]
        return self._last[step]


def collate(lessons: Sequence[Lesson], loss: LossConfig, whole: npt.NDArray[np.float64], pad: int) -> Batch:
    """The lessons of one micro-batch as tensors; `whole` is what all of the step weighs, by TERMS."""
    length = max(len(lesson.ids) for lesson in lessons)
    ids = np.full((len(lessons), length), pad, np.int64)
    for row, lesson in enumerate(lessons):
        ids[row, : len(lesson.ids)] = lesson.ids
    arrays = _tokens(lessons, length) | _chunks(lessons, length) | _rivals(lessons, loss) | _hidden(lessons, loss)
    arrays |= _replay(lessons, length, runs=whole[TERMS.index("retention")] > 0)
    arrays |= {"ids": ids, "whole": whole.astype(np.float32)}
    return cast(Batch, {name: torch.from_numpy(array) for name, array in arrays.items()})


Arrays = dict[str, npt.NDArray[Any]]


def _tokens(lessons: Sequence[Lesson], length: int) -> Arrays:
    if any(lesson.n_prompt < 1 for lesson in lessons):
        raise ValueError("an answer without a prompt: nothing predicts its first token")
    at = [row * length + np.arange(one.n_prompt - 1, len(one.ids) - 1) for row, one in enumerate(lessons)]
    return {
        "at": np.concatenate(at).astype(np.int64),
        "tokens": np.concatenate([one.ids[one.n_prompt :] for one in lessons]).astype(np.int64),
        "token_weights": np.concatenate([one.token_weights for one in lessons]).astype(np.float32),
    }


def _chunks(lessons: Sequence[Lesson], length: int) -> Arrays:
    chunks, ends, entities = [], [], []
    n_chunks = n_entities = 0
    for row, one in enumerate(lessons):
        chunks.append(np.where(one.chunks >= 0, one.chunks + n_chunks, -1))
        entities.append(np.where(one.entities >= 0, one.entities + n_entities, -1))
        end = np.zeros(len(one.teacher), np.int64)
        inside = one.chunks >= 0
        np.maximum.at(end, one.chunks[inside], row * length + one.n_prompt + np.flatnonzero(inside))
        ends.append(end)
        n_chunks += len(one.teacher)
        n_entities += len(one.entity_weights)
    return {
        "chunks": np.concatenate(chunks).astype(np.int64),
        "chunk_ends": np.concatenate(ends),
        "entities": np.concatenate(entities).astype(np.int64),
        "teacher": np.concatenate([one.teacher for one in lessons]).astype(np.float32),
        "chunk_weights": np.concatenate([one.chunk_weights for one in lessons]).astype(np.float32),
        "entity_weights": np.concatenate([one.entity_weights for one in lessons]).astype(np.float32),
    }


def _rivals(lessons: Sequence[Lesson], loss: LossConfig) -> Arrays:
    n_tokens = sum(len(one.token_weights) for one in lessons)
    wanted = coefficients(loss)[TERMS.index("kd")] > 0
    k = max((one.rival_ids.shape[1] for one in lessons if len(one.places)), default=0) if wanted else 0
    ids = np.full((n_tokens, k), -1, np.int64)
    log_probs = np.full((n_tokens, k), -np.inf, np.float32)
    weights = np.zeros(n_tokens, np.float32)
    start = 0
    for one in lessons:
        if k and len(one.places):
            rows, columns = start + one.places, slice(0, one.rival_ids.shape[1])
            ids[rows, columns] = one.rival_ids
            log_probs[rows, columns] = one.rival_log_probs
            weights[rows] = one.place_weights
        start += len(one.token_weights)
    return {"rivals": ids, "rival_log_probs": log_probs, "place_weights": weights}


def _hidden(lessons: Sequence[Lesson], loss: LossConfig) -> Arrays:
    n_chunks = sum(len(one.teacher) for one in lessons)
    size = max(one.hidden.shape[1] for one in lessons) if loss.mse > 0 else 0
    found = np.zeros((n_chunks if size else 0, size), np.float32)
    weights = np.zeros(n_chunks, np.float32)
    start = 0
    for one in lessons:
        if size and len(one.hidden):
            found[start : start + len(one.hidden)] = one.hidden
            weights[start : start + len(one.hidden)] = 1
        start += len(one.teacher)
    return {"hidden": found, "hidden_weights": weights}


def _replay(lessons: Sequence[Lesson], length: int, *, runs: bool) -> Arrays:
    rows = [row for row, one in enumerate(lessons) if one.kind == "replay"] if runs else []
    replay, then = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    starts = np.cumsum([0, *(len(one.token_weights) for one in lessons)])
    for number, row in enumerate(rows):
        one = lessons[row]
        replay.append(np.arange(starts[row], starts[row + 1]))
        then.append(number * length + np.arange(one.n_prompt - 1, len(one.ids) - 1))
    rows = rows or ([0] if runs else [])
    return {
        "replay_rows": np.array(rows, np.int64),
        "replay": np.concatenate(replay).astype(np.int64),
        "replay_then": np.concatenate(then).astype(np.int64),
    }


def identity(examples: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The collator of a loader whose one example is a micro-batch already."""
    return examples[0]
