"""Steps follow from their number and the seed; micro-batches are parts of a step that know the whole of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="distillation needs torch")

from distill_lessons import K, lesson, lessons

from edgemed.core.errors import UsageError
from edgemed.distill.batches import TERMS, Curriculum, Steps, collate, weights_of
from edgemed.distill.config import CurriculumConfig, LossConfig
from edgemed.distill.lesson import Lesson

ALL = LossConfig(ce=1, kd="chunks", kd_weight=0.5, mse=0.1, med_kl=0.3, retention=0.2)
PLAIN = CurriculumConfig(progressive=False, basic_first=False, specialised=False)


def curriculum(taught: list[Lesson], config: CurriculumConfig = PLAIN, **changes: object) -> Curriculum:
    return replace(Curriculum(taught, config, n_steps=20, per_step=4, seed=1), **changes)  # type: ignore[arg-type]


def test_a_plain_shuffle_brings_every_lesson_equally_often_and_in_another_order() -> None:
    found = curriculum(lessons(8))
    rounds = [[n for step in (start, start + 1) for n in found.at(step)] for start in range(0, 20, 2)]
    assert all(sorted(one) == list(range(8)) for one in rounds)
    assert len({tuple(one) for one in rounds}) > 5
    assert rounds != [
        [n for step in (s, s + 1) for n in curriculum(lessons(8), seed=2).at(step)] for s in range(0, 20, 2)
    ]


def test_a_step_that_does_not_fill_whole_rounds_goes_on_with_the_next() -> None:
    found = curriculum(lessons(7))
    drawn = [n for step in range(7) for n in found.at(step)]
    assert set(Counter(drawn).values()) == {4}


def test_easy_lessons_come_first_and_all_in_the_end() -> None:
    taught = [replace(one, measures={"nll": float(n)}) for n, one in enumerate(lessons(20))]
    found = curriculum(taught, CurriculumConfig(basic_first=False, specialised=False, start_competence=0.2))
    assert max(found.at(0)) < 4
    assert (found.weights(19) > 0).sum() >= 19
    assert max(n for step in range(15, 20) for n in found.at(step)) > 9


def test_foundations_come_more_often_in_the_first_half_alone() -> None:
    taught = [lesson(n, kind="basic" if n == 3 else "") for n in range(6)]
    found = curriculum(taught, CurriculumConfig(progressive=False, specialised=False, basic_weight=3))
    assert found.weights(0)[3] == 3
    assert found.weights(5)[3] == pytest.approx(2)
    assert set(found.weights(10)) == {1.0}


def test_the_last_part_prefers_small_specialties_and_replays() -> None:
    taught = [lesson(n, specialty="rare" if n == 0 else "common") for n in range(5)] + [lesson(9, kind="replay")]
    config = CurriculumConfig(progressive=False, basic_first=False, specialised_share=0.25, replay_share=0.25)
    found = curriculum(taught, config)
    assert 5 not in found.at(14)
    assert found.at(15).count(5) == 1
    assert found.weights(15)[0] == pytest.approx(2 * found.weights(15)[1])
    assert curriculum(taught, config, replays=True).at(0).count(5) == 1, "retention reads replay in every step"


def test_micro_batches_hold_the_steps_lessons_the_longest_first() -> None:
    taught = lessons(9, n_replay=2, teacher_hidden=3)
    steps = Steps(curriculum(taught, per_step=5, replays=True), ALL, n_micro=2, pad=0)
    assert len(steps) == 40
    one, other = steps[6], steps[7]
    lengths = [len(taught[n].ids) for n in steps.numbers(3)]
    assert lengths == sorted(lengths, reverse=True)
    assert len(one["ids"]) + len(other["ids"]) == 5
    assert steps.n_tokens(3) == sum(lengths)
    expected = sum(weights_of(taught[n], ALL) for n in steps.numbers(3))
    for part in (one, other):
        assert part["whole"].tolist() == pytest.approx(expected)
    assert steps.examples(3) == sorted(taught[n].example for n in steps.numbers(3))


def test_arrays_of_a_batch_are_those_of_its_lessons_one_behind_the_other() -> None:
    taught = [lesson(1, n_prompt=4, n_answer=6), lesson(2, n_prompt=2, n_answer=9), lesson(3, rivals=False)]
    batch = collate(taught, ALL, np.ones(len(TERMS)), pad=60)
    flat = batch["ids"].flatten()
    assert batch["ids"].shape == (3, 11)
    assert batch["ids"][0, 10] == 60
    assert flat[batch["at"] + 1].tolist() == batch["tokens"].tolist()
    assert batch["tokens"].tolist() == [int(t) for one in taught for t in one.ids[one.n_prompt :]]
    ends = [int(one.ids[one.n_prompt :][one.chunks == c][-1]) for one in taught for c in range(len(one.teacher))]
    assert flat[batch["chunk_ends"]].tolist() == ends
    sizes = [len(one.teacher) for one in taught]
    assert batch["chunks"].max() == sum(sizes) - 1
    assert batch["entities"].max() == 5
    assert batch["rivals"].shape == (22, K)
    with_rivals = [1, 4, 6 + 1, 6 + 7]
    assert (batch["place_weights"] > 0).nonzero().flatten().tolist() == with_rivals
    assert (batch["rivals"] >= 0).any(1).nonzero().flatten().tolist() == with_rivals


def test_what_a_loss_leaves_out_weighs_nothing_and_takes_no_memory() -> None:
    taught, alone = lessons(4, n_replay=1, teacher_hidden=3), LossConfig(kd="none", med_kl=0)
    assert weights_of(taught[3], alone)[1:].tolist() == [0, 0, 0, 0]
    batch = collate(taught, alone, sum(weights_of(one, alone) for one in taught), pad=0)
    assert batch["rivals"].shape[1] == 0
    assert batch["hidden"].shape == (0, 0)
    assert len(batch["replay_rows"]) == 0


def test_all_processes_read_replay_as_soon_as_one_does() -> None:
    batch = collate(lessons(2), ALL, np.ones(len(TERMS)), pad=0)
    assert batch["replay_rows"].tolist() == [0]
    assert len(batch["replay"]) == 0


def test_steps_that_cannot_be_are_refused() -> None:
    with pytest.raises(UsageError, match="nothing to teach"):
        Steps(curriculum(lessons(2, n_replay=2)), ALL, n_micro=1, pad=0)
    with pytest.raises(UsageError, match="cannot be cut into 5"):
        Steps(curriculum(lessons(8)), ALL, n_micro=5, pad=0)
