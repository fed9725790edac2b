"""The terms of the distillation loss, each against an oracle that does not repeat it."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch", reason="distillation needs torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from edgemed.distill.losses import (  # noqa: E402
    Term,
    binary_kl,
    chunk_kd,
    chunk_log_probs,
    cross_entropy,
    full_kl,
    hidden_mse,
    log1m_exp,
    log_probs_of,
    med_kl,
    token_log_probs,
    top_k_kl,
    weighted,
)

probabilities = st.floats(1e-6, 1 - 1e-6)


def logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def log(p: float) -> torch.Tensor:
    return torch.tensor(p, dtype=torch.float64).log()


@settings(deadline=None)
@given(probabilities, probabilities)
def test_the_binary_kl_is_that_of_the_definition_and_obeys_pinsker(p: float, q: float) -> None:
    found = float(binary_kl(log(p), log(q)))
    assert found == pytest.approx(p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)), rel=1e-6, abs=1e-9)
    assert found >= 2 * (p - q) ** 2 - 1e-12


def test_certainty_has_a_finite_divergence_and_gradient() -> None:
    student = torch.zeros(3, requires_grad=True)
    found = binary_kl(torch.tensor([0.0, -1e-9, -50.0]), student)
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("x", [-1e-7, -0.1, -math.log(2), -0.7, -30.0])
def test_the_other_sides_log_probability_is_exact(x: float) -> None:
    import decimal

    with decimal.localcontext(prec=50):
        exact = float((1 - decimal.Decimal(x).exp()).ln())
    assert float(log1m_exp(torch.tensor(x, dtype=torch.float64))) == pytest.approx(exact, rel=1e-9)


def test_gradients_are_those_of_finite_differences() -> None:
    teacher = torch.log(torch.tensor([0.9, 0.2, 0.6], dtype=torch.float64))
    student = torch.log(torch.tensor([0.5, 0.4, 0.61], dtype=torch.float64)).requires_grad_()
    weights = torch.tensor([5.0, 1.0, 3.0], dtype=torch.float64)
    for form in ("l1", "bkl"):
        assert torch.autograd.gradcheck(lambda s, f=form: med_kl(teacher, s, weights, f).mean(), student)
    scores, target = logits(4, 11, seed=1).requires_grad_(), logits(4, 11, seed=2)
    assert torch.autograd.gradcheck(lambda s: full_kl(target.float().double(), s).sum(), scores, atol=1e-3, eps=1e-3)


def test_a_student_that_is_the_teacher_loses_nothing() -> None:
    scores, weights = logits(2, 5, 30), torch.ones(2, 5, dtype=torch.float64)
    tokens = torch.randint(0, 30, (2, 5))
    lp = token_log_probs(scores, tokens)
    assert torch.allclose(full_kl(scores, scores), torch.zeros(2, 5, dtype=torch.float64), atol=1e-12)
    assert float(chunk_kd(lp, lp, weights).total) == 0
    assert float(med_kl(lp, lp, weights, "l1").total) == 0
    assert float(med_kl(lp, lp, weights, "bkl").total) == 0
    hidden = logits(2, 5, 8, seed=3)
    assert float(hidden_mse(hidden, hidden, torch.eye(8, dtype=torch.float64), weights).total) == 0


def test_less_is_known_of_a_token_than_of_all_its_rivals() -> None:
    teacher, student = logits(200, 50, seed=4), logits(200, 50, seed=5)
    tokens = torch.randint(0, 50, (200,))
    whole = full_kl(teacher, student).double()
    one = binary_kl(token_log_probs(teacher, tokens), token_log_probs(student, tokens))
    assert (one <= whole + 1e-5).all()
    bounds = []
    for k in (1, 4, 16, 49):
        top, ids = teacher.log_softmax(-1).topk(k, -1)
        bounds.append(top_k_kl(top, log_probs_of(student, ids)))
    for fewer, more in zip(bounds, [*bounds[1:], whole], strict=True):
        assert (fewer <= more + 1e-4).all()


def test_token_log_probabilities_are_those_of_the_softmax_also_in_half_precision() -> None:
    scores, tokens = logits(3, 7), torch.randint(0, 7, (3,))
    expected = torch.nn.functional.cross_entropy(scores, tokens, reduction="none")
    assert torch.allclose(-token_log_probs(scores, tokens), expected)
    assert token_log_probs(scores.bfloat16(), tokens).dtype == torch.float32


def test_chunks_are_sums_and_tokens_outside_of_them_count_nowhere() -> None:
    lp = torch.tensor([[-1.0, -2.0, float("-inf"), -4.0]])
    assert chunk_log_probs(lp, torch.tensor([[0, 0, -1, 2]]), 3).tolist() == [[-3.0, 0.0, -4.0]]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_terms_of_parts_add_up_to_the_term_of_the_whole(sizes: list[int]) -> None:
    n = sum(sizes)
    lp, weights = -logits(n, seed=n).abs(), torch.rand(n, dtype=torch.float64)
    whole = cross_entropy(lp, weights)
    parts = [cross_entropy(*pair) for pair in zip(lp.split(sizes), weights.split(sizes), strict=True)]
    together = sum(parts[1:], parts[0])
    assert float(together.mean()) == pytest.approx(float(whole.mean()))


def test_values_without_weight_may_be_anything() -> None:
    values = torch.tensor([1.0, float("nan"), float("inf")], requires_grad=True)
    term = weighted(values, torch.tensor([2.0, 0.0, 0.0]))
    term.mean().backward()
    assert float(term.mean().detach()) == 1.0
    assert values.grad is not None
    assert values.grad.tolist() == [1.0, 0.0, 0.0]
    nothing = weighted(values.detach(), torch.zeros(3))
    assert float(Term(nothing.total, nothing.weight).mean()) == 0.0


def test_the_papers_form_hardly_teaches_what_the_student_does_not_know() -> None:
    def gradient(form: str, p: float) -> float:
        student = log(p).requires_grad_()
        med_kl(log(0.9), student, torch.ones((), dtype=torch.float64), form).mean().backward()  # type: ignore[arg-type]
        assert student.grad is not None
        return abs(float(student.grad))

    assert gradient("l1", 1e-4) == pytest.approx(1e-4)
    assert gradient("bkl", 1e-4) > 0.8
