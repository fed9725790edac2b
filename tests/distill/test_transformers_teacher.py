"""A teacher in process: its scores are those of a plain forward pass, its answers those of its seeds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import write_checkpoint

from edgemed.core.errors import ModelRefused, PlanInfeasible
from edgemed.distill.backends import transformers_model
from edgemed.distill.backends.base import ToScore, Wanted, seed_of
from edgemed.distill.backends.teacher_memory import TeacherLoad
from edgemed.distill.backends.transformers_model import TransformersTeacher
from edgemed.distill.shards import NO_TOKEN

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.needs_torch

TOP_K = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("teacher"), "qwen2", dtype="float32")


@pytest.fixture(scope="module")
def teacher(folder: Path) -> Iterator[TransformersTeacher]:
    found = TransformersTeacher(folder, Wanted(TOP_K, seed=3, hidden=True), batch=3)
    yield found
    found.close()


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(str(folder)).eval()


def items(n: int = 7) -> list[ToScore]:
    random = np.random.default_rng(1)
    found = []
    for _ in range(n):
        prompt, answer = (random.integers(3, 300, random.integers(1, 30)).tolist() for _ in range(2))
        places = np.flatnonzero(random.random(len(answer)) < 0.4).astype(np.int32)
        found.append(ToScore(prompt, answer, places))
    return found


def test_scores_are_those_of_a_plain_forward_pass(teacher: TransformersTeacher, model: Any) -> None:
    for item, scored in zip(items(), teacher.score(items()), strict=True):
        start = len(item.prompt)
        with torch.no_grad():
            out = model(torch.tensor([[*item.prompt, *item.answer]]), output_hidden_states=True)
        rows = out.logits[0, start - 1 : -1].log_softmax(-1)
        assert scored.ids.tolist() == list(item.answer)
        expected = rows[range(len(item.answer)), list(item.answer)].numpy()
        np.testing.assert_allclose(scored.log_probs, expected, atol=1e-4)
        assert scored.log_probs.dtype == np.float32
        values, ids = rows[item.places.tolist()].topk(TOP_K)
        assert np.array_equal(scored.top_ids, ids.numpy())
        np.testing.assert_allclose(scored.top_log_probs, values.numpy(), rtol=2e-3)
        np.testing.assert_allclose(scored.hidden, out.hidden_states[-1][0, start:].numpy(), rtol=2e-3, atol=2e-3)


def test_texts_of_different_lengths_score_together_as_alone(folder: Path, teacher: TransformersTeacher) -> None:
    alone = TransformersTeacher(folder, Wanted(TOP_K), batch=1)
    for one, other in zip(alone.score(items()), teacher.score(items()), strict=True):
        np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-4)
        assert np.array_equal(one.top_ids, other.top_ids)
        assert one.hidden.shape == (0, 0)


def test_a_head_that_goes_chunk_by_chunk_says_the_same(
    teacher: TransformersTeacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = teacher.score(items())
    monkeypatch.setattr(transformers_model, "CHUNK", 4)
    for one, other in zip(whole, teacher.score(items()), strict=True):
        np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-5)
        assert np.array_equal(one.top_ids, other.top_ids)


def test_the_likeliest_and_all_others_are_everything(folder: Path, model: Any) -> None:
    n_vocab = int(model.config.vocab_size)
    item = ToScore([5, 6, 7], [9, 10], np.array([0, 1], np.int32))
    (most,) = TransformersTeacher(folder, Wanted(n_vocab - 1)).score([item])
    (every,) = TransformersTeacher(folder, Wanted(n_vocab + 50)).score([item])
    tail = 1 - np.exp(most.top_log_probs.astype(np.float64)).sum(1)
    assert every.top_ids.shape == (2, n_vocab + 50)
    assert (every.top_ids[:, n_vocab:] == NO_TOKEN).all()
    np.testing.assert_allclose(tail, np.exp(every.top_log_probs[:, n_vocab - 1].astype(np.float64)), atol=1e-3)
    assert np.exp(every.top_log_probs.astype(np.float64)).sum(1) == pytest.approx(1, abs=1e-3)


def test_an_answer_follows_from_its_seed_whatever_is_asked_beside_it(
    folder: Path, teacher: TransformersTeacher
) -> None:
    prompts = [item.prompt for item in items(5)]
    together = teacher.generate([list(p) for p in prompts], 2, 0.8, 12)
    assert len({sample.text for samples in together for sample in samples}) > 5
    again = TransformersTeacher(folder, Wanted(TOP_K, seed=3), batch=2).generate(
        [list(prompts[2])], 1, 0.8, 12, first=1
    )
    assert again == [[together[2][1]]]
    other = TransformersTeacher(folder, Wanted(TOP_K, seed=4)).generate([list(prompts[2])], 2, 0.8, 12)
    assert other[0] != together[2]
    assert seed_of(3, [1, 2], 0) != seed_of(3, [1, 2], 1) != seed_of(3, [1], 21)


def test_who_has_finished_leaves_the_batch_and_changes_nothing_for_the_others(
    folder: Path, teacher: TransformersTeacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [list(item.prompt) for item in items(6)]
    alone = TransformersTeacher(folder, Wanted(TOP_K, seed=3), batch=1)
    for one in (teacher, alone):
        monkeypatch.setattr(one._tokens, "ends", frozenset(range(0, 323, 6)))
    found = teacher.generate(prompts, 1, 1.0, 15)
    assert found == alone.generate(prompts, 1, 1.0, 15)
    assert len({len(answer.text) for (answer,) in found}) > 2
    assert any(answer.finished for (answer,) in found)


def test_at_temperature_0_the_likeliest_token_is_taken(teacher: TransformersTeacher, model: Any) -> None:
    prompts = [list(item.prompt) for item in items(4)]
    found = teacher.generate(prompts, 1, 0, 10)
    for prompt, (answer,) in zip(prompts, found, strict=True):
        ids = list(prompt)
        for _ in range(10):
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        assert answer == teacher._tokens.generated(ids[len(prompt) :])


def test_draws_are_spread_as_the_model_says() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -1e9]]).repeat(4000, 1)
    draws = torch.from_numpy(np.random.default_rng(0).random(4000))
    shares = np.bincount(transformers_model._drawn(logits, draws, 0.5).numpy(), minlength=4) / 4000
    expected = torch.tensor([0.0, 2.0, 4.0, -1e9]).softmax(-1).numpy()
    np.testing.assert_allclose(shares, expected, atol=0.03)
    assert shares[3] == 0


def test_a_finished_answer_ends_before_its_end(teacher: TransformersTeacher) -> None:
    end = next(iter(teacher._tokens.ends))
    assert teacher._tokens.generated([70, 71, end, 72]).finished
    assert teacher._tokens.generated([70, 71, end, 72]).text == teacher._tokens.generated([70, 71]).text
    assert not teacher._tokens.generated([70, 71]).finished


def test_another_weight_is_another_teacher(folder: Path, teacher: TransformersTeacher, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other", "qwen2", dtype="bfloat16")
    assert TransformersTeacher(other, Wanted(TOP_K)).digest != teacher.digest
    assert TransformersTeacher(folder, Wanted(TOP_K)).digest == teacher.digest


def test_a_folder_without_weights_is_no_teacher(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelRefused):
        TransformersTeacher(tmp_path, Wanted(TOP_K))


@pytest.mark.parametrize(
    ("share", "way_out"),
    [
        (0.9, "set teacher.batch = 1"),
        (0.1, 'set teacher.dtype = "bfloat16" and teacher.batch = 1'),
        (0.01, "several GPUs"),
    ],
)
def test_a_teacher_that_does_not_fit_is_told_before_it_is_loaded(
    share: float, way_out: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = TeacherLoad(folder, "float32", 8, 4096, "cpu")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    n_weights = sum(parameter.numel() for parameter in model.parameters())
    alone = TeacherLoad(folder, "float32", 0, 0, "cpu").peak_bytes
    assert alone == 4 * n_weights + 2 * 512 * 4 * model.config.vocab_size
    monkeypatch.setattr(transformers_model, "_free_ram", lambda: int(load.peak_bytes * share))
    teacher = TransformersTeacher(folder, Wanted(TOP_K), device="cpu")
    with pytest.raises(PlanInfeasible, match="The teacher needs") as refused:
        teacher.score(items(1))
    assert way_out in refused.value.next_step


def test_a_gpu_that_is_full_is_told_with_the_next_step(
    teacher: TransformersTeacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("out of memory")

    teacher.score(items(1))
    monkeypatch.setattr(teacher, "_states", full)
    with pytest.raises(PlanInfeasible, match="3 texts at a time") as refused:
        teacher.score(items(1))
    assert "teacher.batch = 1" in refused.value.next_step


def test_a_model_that_bends_its_logits_is_refused(
    teacher: TransformersTeacher, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = transformers.Qwen2ForCausalLM.forward

    def bent(self: Any, *args: Any, **options: Any) -> Any:
        out = whole(self, *args, **options)
        out.logits = out.logits.tanh()
        return out

    monkeypatch.setattr(transformers.Qwen2ForCausalLM, "forward", bent)
    with pytest.raises(ModelRefused, match="behind the head"):
        TransformersTeacher(folder, Wanted(TOP_K)).score(items(1))
