"""The KL of two models of one vocabulary, against trl's kernel for distillation.

trl brings datasets, pandas and pyarrow along, 200 MB that nothing else here needs, so it is no dependency:
`pip install trl==1.16.0` runs this.
"""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="distillation needs torch")
pytest.importorskip("trl", reason="trl is an oracle for this alone")

from edgemed.distill.losses import full_kl  # noqa: E402
from edgemed.distill.vocabulary import over_vocabulary  # noqa: E402

pytestmark = [
    pytest.mark.needs_torch,
    pytest.mark.filterwarnings("ignore:::trl.*"),
    pytest.mark.filterwarnings("ignore:::datasets.*"),
    pytest.mark.filterwarnings("ignore:::multiprocess.*"),
]

POSITIONS, VOCABULARY, STUDENT, TEACHER = 60, 40_000, 48, 64
"""More words than one tile of theirs, and more positions than one chunk of ours."""


def both_sides() -> tuple[Any, ...]:
    """Hidden states and head of the student, with gradient, and of the teacher."""
    made = torch.Generator().manual_seed(0)

    def sharp(rows: int, size: int) -> Any:
        return torch.randn(rows, size, generator=made) * 0.4

    student = sharp(POSITIONS, STUDENT).requires_grad_(), sharp(VOCABULARY, STUDENT).requires_grad_()
    return *student, sharp(POSITIONS, TEACHER), sharp(VOCABULARY, TEACHER)


def test_kl_and_its_gradients_are_those_of_trls_kernel() -> None:
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    hidden, head, teacher, teacher_head = both_sides()

    def kl(logits: Any, beside: Any) -> Any:
        return full_kl(beside @ teacher_head.T, logits)

    ours = over_vocabulary(hidden, head, kl, teacher, chunk=25)
    theirs, _ = ChunkedDivergenceFunction.apply(hidden, head, None, teacher, teacher_head, None, 0.0)
    assert ours.shape == theirs.shape == (POSITIONS,)
    assert 0.5 < float(theirs.detach().mean()) < 3  # as of two models that differ much
    assert float((ours - theirs).detach().abs().max()) < 1e-5
    weights = torch.linspace(0.5, 1.5, POSITIONS)
    gradients = [torch.autograd.grad((one * weights).sum(), (hidden, head)) for one in (ours, theirs)]
    for one, other in zip(*gradients, strict=True):
        assert float((one - other).abs().max()) < 1e-5 * float(other.abs().max())


def test_kl_is_that_of_trls_loss_on_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.gkd import GKDTrainer

    hidden, head, teacher, teacher_head = (one.detach() for one in both_sides())
    logits, others = (hidden @ head.T)[None], (teacher @ teacher_head.T)[None]
    ours = float(full_kl(others, logits).sum())
    theirs = float(GKDTrainer.generalized_jsd_loss(logits, others, beta=0, reduction="sum"))
    assert ours == pytest.approx(theirs, rel=1e-5)
