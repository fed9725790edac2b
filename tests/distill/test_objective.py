"""Equation (6) of a batch: against transformers' own loss, finite differences, and itself in parts."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="distillation needs torch")
pytest.importorskip("transformers", reason="distillation needs transformers")
pytest.importorskip("peft", reason="adapters need peft")

from distill_lessons import K, lesson, lessons, tiny_student, with_adapter  # noqa: E402

from edgemed.core.errors import ModelRefused  # noqa: E402
from edgemed.distill.batches import TERMS, Batch, coefficients, collate, weights_of  # noqa: E402
from edgemed.distill.config import LossConfig  # noqa: E402
from edgemed.distill.lesson import Lesson  # noqa: E402
from edgemed.distill.objective import Objective, check_head, objective  # noqa: E402

ALL = LossConfig(ce=1, kd="chunks", kd_weight=0.5, mse=0.1, med_kl=0.3, retention=0.2)
CE = LossConfig(kd="none", med_kl=0)


def batch_of(taught: list[Lesson], loss: LossConfig) -> Batch:
    return collate(taught, loss, np.sum([weights_of(one, loss) for one in taught], axis=0), pad=0)


def loss_of(terms: dict[str, Any], batch: Batch, loss: LossConfig) -> Any:
    counts = dict(zip(TERMS, coefficients(loss), strict=True))
    whole = dict(zip(TERMS, batch["whole"].tolist(), strict=True))
    return sum(counts[name] * term.total / whole[name] for name, term in terms.items())


@pytest.mark.parametrize("tied", [True, False])
def test_cross_entropy_is_transformers_own(tied: bool) -> None:
    student = tiny_student(tied=tied)
    taught = [replace(one, token_weights=np.ones_like(one.token_weights)) for one in lessons(5)]
    batch = batch_of(taught, CE)
    labels = torch.full_like(batch["ids"], -100)
    for row, one in enumerate(taught):
        labels[row, one.n_prompt : len(one.ids)] = batch["ids"][row, one.n_prompt : len(one.ids)]
    mask = torch.tensor([[float(n < len(one.ids)) for n in range(labels.shape[1])] for one in taught])
    expected = student(input_ids=batch["ids"], attention_mask=mask, labels=labels).loss
    terms = objective(student, batch, CE)
    assert set(terms) == {"ce"}
    assert terms["ce"].mean().item() == pytest.approx(expected.item(), rel=1e-5)


def in_float64(student: Any) -> Any:
    """All of it: transformers' norms compute in float32 whatever they are given."""
    for module in list(student.modules()):
        for name, child in list(module.named_children()):
            if "RMSNorm" in type(child).__name__:
                setattr(module, name, torch.nn.RMSNorm(child.weight.shape, eps=child.variance_epsilon))
    return student.double()


@pytest.mark.parametrize("form", ["l1", "bkl"])
def test_gradients_are_finite_differences(form: str) -> None:
    loss = ALL.model_copy(update={"med_kl_form": form})
    batch = batch_of([lesson(3, teacher_hidden=5), lesson(4, kind="replay", n_prompt=2)], loss)
    student = in_float64(tiny_student())
    before = in_float64(tiny_student(seed=5)).requires_grad_(False)
    projection = torch.randn(5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()

    def value() -> Any:
        return loss_of(objective(student, batch, loss, before, projection), batch, loss)

    parameters = [*student.parameters(), projection]
    gradients = torch.autograd.grad(value(), parameters)
    random = np.random.default_rng(0)
    for one, gradient in zip(parameters, gradients, strict=True):
        place, step = int(random.integers(one.numel())), 1e-6
        flat = one.data.view(-1)
        flat[place] += step
        above = value().item()
        flat[place] -= 2 * step
        below = value().item()
        flat[place] += step
        assert (above - below) / (2 * step) == pytest.approx(float(gradient.view(-1)[place]), rel=2e-5, abs=1e-8)


@pytest.mark.parametrize("sizes", [(1,) * 6, (2, 4), (5, 1)])
def test_any_split_adds_up_to_the_same_terms_and_weights(sizes: tuple[int, ...]) -> None:
    taught = lessons(6, n_replay=2, teacher_hidden=5)
    student = Objective(with_adapter(tiny_student(), begun=True), ALL, teacher_hidden=5)
    whole = np.sum([weights_of(one, ALL) for one in taught], axis=0)
    together = student(batch_of(taught, ALL))
    parts, start = [], 0
    for size in sizes:
        parts.append(student(collate(taught[start : start + size], ALL, whole, pad=0)))
        start += size
    assert torch.allclose(torch.stack(parts).sum(0), together, rtol=1e-5)
    assert (together > 0).all()
    terms = objective(student.model, batch_of(taught, ALL), ALL, None, student.projection)
    assert [float(terms[name].weight) for name in TERMS] == pytest.approx(whole.tolist(), rel=1e-6)


def test_retention_is_nothing_before_the_first_step_and_something_after() -> None:
    batch = batch_of(lessons(4, n_replay=2), ALL.model_copy(update={"mse": 0}))
    loss = LossConfig(kd="none", med_kl=0, retention=1)
    begun, at_start = with_adapter(tiny_student(), begun=True), with_adapter(tiny_student())
    assert objective(at_start, batch, loss)["retention"].mean().item() == pytest.approx(0, abs=1e-6)
    assert objective(begun, batch, loss)["retention"].mean().item() > 0.01
    student = tiny_student()
    assert objective(student, batch, loss, copy.deepcopy(student))["retention"].mean().item() == pytest.approx(
        0, abs=1e-6
    )
    assert objective(student, batch, loss, tiny_student(seed=3))["retention"].mean().item() > 0.01


def test_retention_leaves_the_adapter_on_and_trainable() -> None:
    student = with_adapter(tiny_student(), begun=True)
    trained = [name for name, one in student.named_parameters() if one.requires_grad]
    objective(student, batch_of(lessons(2, n_replay=1), ALL), LossConfig(kd="none", retention=1))[
        "retention"
    ].total.backward()
    assert [name for name, one in student.named_parameters() if one.requires_grad] == trained
    assert all(one.grad is not None for one in student.parameters() if one.requires_grad)


def taught_by_itself(student: Any, one: Lesson) -> Lesson:
    """The lesson as a teacher that is the student itself would give it."""
    with torch.no_grad():
        out = student(input_ids=torch.tensor(one.ids.astype(np.int64))[None], output_hidden_states=True)
    log_probs = out.logits[0].double().log_softmax(-1).numpy()
    answer = np.arange(one.n_prompt, len(one.ids))
    own = log_probs[answer - 1, one.ids[answer]]
    chunks = np.array([own[one.chunks == c].sum() for c in range(len(one.teacher))], np.float32)
    ends = [int(answer[one.chunks == c][-1]) for c in range(len(one.teacher))]
    rows = log_probs[answer[one.places] - 1]
    rivals = np.argsort(-rows, axis=1)[:, :K].astype(np.int32)
    return replace(
        one,
        teacher=chunks,
        rival_ids=rivals,
        rival_log_probs=np.take_along_axis(rows, rivals, axis=1).astype(np.float32),
        hidden=out.hidden_states[-1][0, ends].numpy().astype(np.float16),
    )


@pytest.mark.parametrize("form", ["l1", "bkl"])
def test_a_teacher_equal_to_the_student_has_nothing_to_teach(form: str) -> None:
    student, loss = tiny_student(), LossConfig(ce=0, mse=1, med_kl=1, med_kl_form=form)
    batch = batch_of([taught_by_itself(student, lesson(seed)) for seed in range(4)], loss)
    terms = objective(student, batch, loss, None, torch.eye(16))
    assert set(terms) == {"kd", "mse", "med_kl"}
    for name, term in terms.items():
        assert term.mean().item() == pytest.approx(0, abs=2e-5), name
    other = objective(tiny_student(seed=9), batch, loss, None, torch.eye(16))
    found = {name: term.mean().item() for name, term in other.items()}
    assert min(found.values()) > 1e-4, found


def test_missing_rivals_are_as_if_they_had_not_been_asked_for() -> None:
    student, loss = tiny_student(), LossConfig(ce=0, kd_weight=1, med_kl=0)
    full = lesson(1)
    none = np.full((2, 2), -1, np.int32)
    padded = replace(
        full,
        rival_ids=np.hstack([full.rival_ids, none]),
        rival_log_probs=np.hstack([full.rival_log_probs, np.full((2, 2), -np.inf, np.float32)]),
    )
    values = []
    for one in (full, padded):
        student.zero_grad()
        total = objective(student, batch_of([one], loss), loss)["kd"].total
        total.backward()
        values.append((total.item(), student.model.embed_tokens.weight.grad.clone()))
    assert values[0][0] == pytest.approx(values[1][0], rel=1e-6)
    assert torch.allclose(values[0][1], values[1][1], atol=1e-6)
    assert np.isfinite(values[1][0])


def test_lessons_without_a_teacher_give_cross_entropy_alone() -> None:
    empty = np.empty(0, np.float32)
    alone = replace(
        lesson(2, rivals=False),
        chunks=np.full(7, -1, np.int32),
        teacher=empty,
        chunk_weights=empty,
        entities=np.empty(0, np.int32),
        entity_weights=empty,
    )
    loss = ALL.model_copy(update={"mse": 0, "retention": 0})
    sums = Objective(tiny_student(), loss)(batch_of([alone], loss))
    assert sums[0].item() > 0
    assert sums[1:].tolist() == [0, 0, 0, 0]


def test_a_head_that_is_not_a_matrix_alone_is_refused() -> None:
    student = tiny_student(tied=False)
    check_head(student)
    check_head(with_adapter(student))
    odd = tiny_student(tied=False)
    odd.lm_head = torch.nn.Linear(16, odd.config.vocab_size, bias=True)
    torch.nn.init.normal_(odd.lm_head.bias)
    with pytest.raises(ModelRefused, match="head"):
        check_head(odd)
