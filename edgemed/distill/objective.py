"""Equation (6) of one micro-batch: one pass to the last hidden state, then the head, chunk by chunk, for all terms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from edgemed.core.errors import ModelRefused
from edgemed.distill.batches import TERMS, Batch, coefficients
from edgemed.distill.config import LossConfig
from edgemed.distill.losses import (
    Term,
    chunk_kd,
    chunk_log_probs,
    cross_entropy,
    full_kl,
    hidden_mse,
    log_probs_of,
    med_kl,
    top_k_kl,
    weighted,
)
from edgemed.distill.vocabulary import CHUNK, over_vocabulary

_NEVER = -1e4
"""As a log-probability: e to it is 0 in every format, and unlike -inf it may be multiplied by 0."""
_LOGITS_AT_A_TIME = 1 << 26
"""A chunk's logits in float32 take 256 MiB; a small vocabulary goes in one piece, which is not computed twice."""


def parts_of(model: Any) -> tuple[Any, Tensor]:
    """The model below its head, adapters in it, and the head's matrix (vocabulary, hidden size).

    `model` is a transformers model with a head, or PEFT's around one.
    """
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    return whole.base_model, whole.get_output_embeddings().weight


def objective(
    model: Any, batch: Batch, loss: LossConfig, reference: Any = None, projection: Tensor | None = None
) -> dict[str, Term]:
    """The terms that `loss` asks for, by the names of TERMS; their weights are those of this micro-batch.

    `reference` is the model before the training; without one it is `model` with its adapters off. `projection`
    (teacher's hidden size, student's) is what MSE compares hidden states through.
    """
    wanted = {name for name, counts in zip(TERMS, coefficients(loss), strict=True) if counts > 0}
    # First, while nothing of the student's own pass lives.
    before = _before(model, batch, reference) if "retention" in wanted and len(batch["replay_rows"]) else None
    below, head = parts_of(model)
    hidden = below(input_ids=batch["ids"], use_cache=False)[0].flatten(0, 1).to(head.dtype)  # (b l, hidden size)
    states, chunk = hidden[batch["at"]], max(CHUNK, _LOGITS_AT_A_TIME // head.shape[0])
    rivals = batch["rivals"] if "kd" in wanted else batch["rivals"][:, :0]
    found = over_vocabulary(states, head, _log_probs, batch["tokens"], rivals, chunk=chunk)
    own = found[:, 0]
    terms = {}
    if "ce" in wanted:
        terms["ce"] = cross_entropy(own, batch["token_weights"])
    chunks = chunk_log_probs(own[None], batch["chunks"][None], len(batch["teacher"]))[0]
    if "kd" in wanted:
        by_text = chunk_kd(batch["teacher"], chunks, batch["chunk_weights"])
        terms["kd"] = by_text + _rivals_kd(found[:, 1:], batch)
    if "mse" in wanted:
        terms["mse"] = _mse(hidden, batch, projection)
    if "med_kl" in wanted:
        terms["med_kl"] = _entities(chunks, batch, loss)
    if before is not None:
        terms["retention"] = _retention(states[batch["replay"]], head, before, chunk)
    return terms


class Objective(nn.Module):  # type: ignore[misc]  # torch is not read by mypy
    """The student with all that is trained or read beside it, as one module: what DDP and FSDP wrap.

    `forward` gives the sums of TERMS, (5,) float32, not yet divided by anything.
    """

    def __init__(self, model: Any, loss: LossConfig, reference: Any = None, teacher_hidden: int = 0) -> None:
        """`teacher_hidden` is the size of the teacher's hidden states, 0 where MSE is not wanted."""
        super().__init__()
        self.model, self.loss = model, loss
        self.reference = reference
        self._no_split_modules = getattr(model, "_no_split_modules", None)  # accelerate shards FSDP's units by it
        self.projection: nn.Parameter | None = None
        if teacher_hidden:
            head = parts_of(model)[1]
            # Rows of a random matrix of this size keep lengths; drawn on the CPU, so that every machine begins alike.
            drawn = torch.randn(teacher_hidden, head.shape[1], generator=torch.Generator().manual_seed(0))
            self.projection = nn.Parameter((drawn / head.shape[1] ** 0.5).to(head.device))

    def forward(self, batch: Batch) -> Tensor:
        """The sums of TERMS, (5,) float32."""
        terms = objective(self.model, batch, self.loss, self.reference, self.projection)
        zero = batch["whole"].new_zeros(())
        if self.projection is not None:  # a micro-batch without chunks must have a gradient for it too, or DDP waits
            zero = zero + 0 * self.projection.sum()
        return torch.stack([terms[name].total.float() + zero if name in terms else zero for name in TERMS])


def check_head(model: Any) -> None:
    """Raises ModelRefused where the head's matrix alone does not make the model's logits (a bias, a scale, a cap)."""
    below, head = parts_of(model)
    was = model.training
    model.eval()
    ids = torch.arange(4, device=head.device)[None]
    with torch.no_grad():
        whole = model(input_ids=ids, use_cache=False).logits.float()
        ours = (below(input_ids=ids, use_cache=False)[0] @ head.T).float()
    model.train(was)
    apart = float((whole - ours).abs().max() / whole.abs().max().clamp(min=1e-6))
    if not apart < 0.02:
        raise ModelRefused(
            f"The student's logits are not its last hidden states times its head ({apart:.0%} apart).",
            next_step="take a student whose head has neither bias, scale nor cap, such as Qwen 2 or Llama",
        )


def _log_probs(logits: Tensor, tokens: Tensor, rivals: Tensor) -> Tensor:
    """(p, 1 + k): of the actual token, then of its rivals."""
    return log_probs_of(logits, torch.cat([tokens[:, None], rivals.clamp(min=0)], dim=1))


def _rivals_kd(student: Tensor, batch: Batch) -> Term:
    known = batch["rivals"] >= 0
    teacher = torch.where(known, batch["rival_log_probs"].clamp(min=_NEVER), _NEVER)
    ours = torch.where(known, student, _NEVER)
    if not known.shape[1]:
        return Term(student.sum(), batch["place_weights"].sum())
    return weighted(top_k_kl(teacher, ours), batch["place_weights"])


def _mse(hidden: Tensor, batch: Batch, projection: Tensor | None) -> Term:
    if projection is None or not batch["hidden"].shape[1]:
        return Term(hidden.new_zeros(()), batch["hidden_weights"].sum())
    wide = torch.promote_types(projection.dtype, torch.float32)  # under FSDP the projection comes in 16 bits
    ends = hidden[batch["chunk_ends"]].to(wide)
    return hidden_mse(ends, batch["hidden"].to(wide), projection.to(wide), batch["hidden_weights"])


def _entities(chunks: Tensor, batch: Batch, loss: LossConfig) -> Term:
    n, entities = len(batch["entity_weights"]), batch["entities"][None]
    teacher, student = (chunk_log_probs(one[None], entities, n)[0] for one in (batch["teacher"], chunks))
    return med_kl(teacher, student, batch["entity_weights"], loss.med_kl_form)


def _before(model: Any, batch: Batch, reference: Any) -> tuple[Tensor, Tensor]:
    """Last hidden states (q, hidden size) of the replayed answers before any training, and the head of that model."""
    with torch.no_grad(), _as_it_began(model, reference) as old:
        below, head = parts_of(old)
        hidden = below(input_ids=batch["ids"][batch["replay_rows"]], use_cache=False)[0]
        return hidden.flatten(0, 1)[batch["replay_then"]].to(head.dtype), head.detach()


@contextmanager
def _as_it_began(model: Any, reference: Any) -> Iterator[Any]:
    if reference is not None:
        yield reference.eval()
        return
    was = model.training
    model.eval()  # without dropout
    with model.disable_adapter():
        yield model
    model.train(was)


def _retention(states: Tensor, head: Tensor, before: tuple[Tensor, Tensor], chunk: int) -> Term:
    then, old_head = before

    def kl(logits: Tensor, old: Tensor) -> Tensor:
        return full_kl(old @ old_head.T, logits)

    found = over_vocabulary(states, head, kl, then, chunk=chunk)
    return weighted(found, torch.ones_like(found))
