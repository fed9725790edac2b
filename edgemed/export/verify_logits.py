"""Does the exported file compute what its parent computes?"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgemed.core.errors import ModelRefused
from edgemed.core.progress import Progress
from edgemed.core.records import NotAvailable
from edgemed.export.engine_question import ask_engine
from edgemed.export.parent_logits import ParentNotRun, parent_logits, require_parent
from edgemed.export.report import LogitCheck
from edgemed.models.checkpoint import Checkpoint

N_POSITIONS = 48

LIMITS = {"f32": 1e-3, "f16": 5e-2, "bf16": 2e-1, "q8_0": 5e-1}
"""Largest accepted difference of any logit, in standard deviations of the parent's logits, by the coarsest type.

A wrong conversion (a permutation forgotten, a norm off by one) is off by whole deviations. What is right differs by the
order of summation (f32), and by the engine rounding activations to the weights' format: f16 2^-11, bf16 2^-8, and q8_0
one part in 254 of a block's largest.
"""

_GELU_LIMIT = 1e-2
"""The engine looks GELU up in a float16 table, even in a float32 model."""

_KL_LIMIT = 2.0


def verify_logits(
    exported: Path, checkpoint: Checkpoint, types: Collection[str], exact_tokens: int, progress: Progress
) -> LogitCheck | NotAvailable:
    """The comparison on one prompt of N_POSITIONS tokens, `exact_tokens` at most; `types` are those of the matrices.

    NotAvailable, with the reason, where the parent cannot run. Raises ModelRefused when the file's logits are not
    finite, or further from the parent's than its types explain.
    """
    n_vocab = checkpoint.config.integer("vocab_size")
    prompt = np.random.default_rng(7).integers(0, n_vocab, min(N_POSITIONS, exact_tokens)).tolist()
    with progress.task("Asking the engine", 1) as task:
        logits = _engine_logits(exported, prompt, n_vocab)
        task.advance()
    if not np.isfinite(logits).all():
        raise ModelRefused(
            "The exported file computes NaN or infinity: its weights are too large for the recipe's formats.",
            next_step="edgemed export --recipe bf16",
        )
    try:
        require_parent(checkpoint)
        parent = parent_logits(checkpoint, prompt, progress)
    except ParentNotRun as reason:
        return NotAvailable(reason=str(reason))
    check = compare_logits(parent, logits, _limit(types, checkpoint))
    if not check.within:
        raise ModelRefused(
            f"The exported file computes something else than its parent: {check.words}.",
            next_step="report this model; nothing was written",
        )
    return check


def _limit(types: Collection[str], checkpoint: Checkpoint) -> float | None:
    """The largest difference to be accepted; None where a type is so coarse that only the divergence can say."""
    if not set(types) <= LIMITS.keys():
        return None
    limit = max(LIMITS[name] for name in types)
    return max(limit, _GELU_LIMIT) if _has_gelu(checkpoint) else limit


def _has_gelu(checkpoint: Checkpoint) -> bool:
    return any("gelu" in str(checkpoint.config.values.get(key)) for key in ("hidden_act", "hidden_activation"))


def compare_logits(
    parent: npt.NDArray[np.float32], exported: npt.NDArray[np.float32], limit: float | None
) -> LogitCheck:
    """Difference, divergence and agreement of two sets of logits (positions, vocabulary)."""
    p, q = parent.astype(np.float64), exported.astype(np.float64)
    log_p, log_q = _log_softmax(p), _log_softmax(q)
    spread = max(float(p.std()), 1e-12)
    return LogitCheck(
        n_positions=len(p),
        max_difference=float(np.abs(p - q).max()) / spread,
        mean_kl=max(0.0, float((np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean())),
        top1_agreement=float((p.argmax(axis=1) == q.argmax(axis=1)).mean()),
        limit=_KL_LIMIT if limit is None else limit,
        limited="mean_kl" if limit is None else "max_difference",
    )


def _engine_logits(exported: Path, prompt: list[int], n_vocab: int) -> npt.NDArray[np.float32]:
    with tempfile.TemporaryDirectory(prefix="edgemed-logits-") as folder:
        place = Path(folder) / "logits.f32"
        ask_engine({"path": str(exported), "prompt": prompt, "logits": str(place)})
        return np.fromfile(place, np.float32).reshape(len(prompt), n_vocab)


def _log_softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
