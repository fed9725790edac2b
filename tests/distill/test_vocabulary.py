"""Losses over a large vocabulary, chunk by chunk, are those of all logits at once."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="distillation needs torch")

from edgemed.distill.losses import full_kl, token_log_probs  # noqa: E402
from edgemed.distill.vocabulary import over_vocabulary  # noqa: E402


def made(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_values_and_gradients_are_those_of_all_logits_at_once(chunk: int) -> None:
    hidden, head = made(7, 5, seed=1).requires_grad_(), made(23, 5, seed=2).requires_grad_()
    tokens = torch.randint(0, 23, (7,), generator=torch.Generator().manual_seed(3))
    expected = token_log_probs(hidden @ head.T, tokens)
    wanted = torch.autograd.grad(expected.square().sum(), (hidden, head))
    found = over_vocabulary(hidden, head, token_log_probs, tokens, chunk=chunk)
    got = torch.autograd.grad(found.square().sum(), (hidden, head))
    assert torch.allclose(found, expected)
    for one, other in zip(got, wanted, strict=True):
        assert torch.allclose(one, other)


def test_a_teachers_logits_go_along_position_by_position() -> None:
    hidden, head, teacher = made(6, 4, seed=4), made(9, 4, seed=5), made(6, 9, seed=6)

    def kl(logits: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        return full_kl(others, logits)

    with torch.no_grad():
        found = over_vocabulary(hidden, head, kl, teacher, chunk=4)
    assert torch.allclose(found, full_kl(teacher, hidden @ head.T))


def test_no_more_than_a_chunk_of_logits_lives_at_a_time() -> None:
    sizes: list[int] = []

    def seen(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        sizes.append(logits.shape[0])
        return token_log_probs(logits, tokens)

    hidden = made(10, 4, seed=7).requires_grad_()
    over_vocabulary(hidden, made(9, 4, seed=8), seen, torch.zeros(10, dtype=torch.long), chunk=4).sum().backward()
    assert max(sizes) == 4
    assert sum(sizes) == 20, "each position once forward and once again backward"
