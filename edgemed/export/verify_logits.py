"""Does the exported file compute what its parent computes?"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from edgemed_converters.plan import ConversionPlan

from edgemed.core.errors import ModelRefused
from edgemed.core.progress import Progress
from edgemed.core.records import NotAvailable
from edgemed.export.engine_question import ask_engine
from edgemed.export.merged_weights import merged
from edgemed.export.parent_logits import ParentNotRun, parent_logits, require_parent
from edgemed.export.report import LogitCheck
from edgemed.export.rounded_weights import RoundedCheckpoint
from edgemed.models.checkpoint import Checkpoint
from edgemed.models.lora_folder import LoraFolder

N_POSITIONS = 48

LIMITS = {"f32": 1e-3, "f16": 5e-2, "bf16": 2e-1, "q8_0": 5e-1}
"""Largest accepted difference of any logit, in standard deviations of the parent's logits, by the coarsest type.

A wrong conversion (a permutation forgotten, a norm off by one) is off by whole deviations. What is right differs by the
order of summation (f32), and by the engine rounding activations to the weights' format: f16 2^-11, bf16 2^-8, and q8_0
one part in 254 of a block's largest.
"""

_GELU_LIMIT = 1e-2
"""The engine looks GELU up in a float16 table, even in a float32 model."""

_ROUNDED_LIMIT = 0.75
"""The same for weights of fewer than 8 bits, against float32 arithmetic with the rounded weights themselves.

Against the parent no limit would do: of a right two-bit file every logit may be another, and of a small model with a
permutation forgotten hardly any is. What is right differs by activations that are rounded to 8 bits, in blocks of 256
for the k-types: up to 0.36 was seen, on random weights of six architectures; what is wrong, by 1 and more.
"""

_WEIGHT_LIMIT = 0.7
"""Largest accepted error of a tensor, relative to its size: q2_k 0.3, another tensor's weights 1.4, none at all 1."""


@dataclass(frozen=True, slots=True)
class Beside:
    """An adapter that the engine is to use beside the exported file."""

    path: Path
    lora: LoraFolder


def verify_logits(
    exported: Path,
    checkpoint: Checkpoint,
    conversion: ConversionPlan,
    types: Collection[str],
    progress: Progress,
    beside: Beside | None = None,
) -> LogitCheck | NotAvailable:
    """The comparison on one prompt of N_POSITIONS tokens, or as many as are exact; `types` are those of the matrices.

    With an adapter beside the file, the reference is the parent with that adapter merged; where the file has 8 bits or
    fewer, the parent's code with the file's own weights and the adapter merged into those.

    NotAvailable, with the reason, where the parent cannot run. Raises ModelRefused when a logit is not finite, or
    differs by more than the types explain, or when a tensor is another than the parent's.
    """
    n_vocab = checkpoint.config.integer("vocab_size")
    n_positions = min(N_POSITIONS, conversion.exact_tokens)
    prompt = np.random.default_rng(7).integers(0, n_vocab, n_positions).tolist()
    with progress.task("Asking the engine", 1) as task:
        logits = _engine_logits(exported, prompt, n_vocab, beside)
        task.advance()
    if not np.isfinite(logits).all():
        raise ModelRefused(
            "The exported file computes NaN or infinity: its weights are too large for these formats.",
            next_step="edgemed export --recipe bf16",
        )
    try:
        require_parent(checkpoint)
        # An adapter has nothing to do with the base's rounding: it is judged on the weights that the base's file holds.
        if set(types) <= LIMITS.keys() and (beside is None or "q8_0" not in types):
            parent = checkpoint if beside is None else merged(checkpoint, beside.lora)
            check = compare_logits(parent_logits(parent, prompt, progress), logits, _limit(types, checkpoint))
        else:
            check = _check_rounded(exported, checkpoint, conversion, prompt, logits, progress, beside)
    except ParentNotRun as reason:
        return NotAvailable(reason=str(reason))
    if not check.max_difference <= check.limit:
        raise ModelRefused(
            f"The exported file computes something else than the {check.reference}: a logit differs by "
            f"{check.max_difference:.3g} standard deviations (limit {check.limit:g}), top-1 agreement "
            f"{check.top1_agreement:.0%}.",
            next_step="report this model; nothing was written",
        )
    return check


def _limit(types: Collection[str], checkpoint: Checkpoint) -> float:
    limit = max(LIMITS[name] for name in types)
    return max(limit, _GELU_LIMIT) if _has_gelu(checkpoint) else limit


def _check_rounded(
    exported: Path,
    checkpoint: Checkpoint,
    conversion: ConversionPlan,
    prompt: Sequence[int],
    logits: npt.NDArray[np.float32],
    progress: Progress,
    beside: Beside | None,
) -> LogitCheck:
    """Whether every tensor is near the parent's, and the engine computes with them what float32 arithmetic does."""
    planned = {tensor.source: tensor for tensor in conversion.tensors}
    rounded = RoundedCheckpoint(
        checkpoint.folder, checkpoint.config, checkpoint.tensors, exported, planned, parent=checkpoint
    )
    reference = rounded if beside is None else merged(rounded, beside.lora)
    check = compare_logits(parent_logits(reference, prompt, progress), logits, _ROUNDED_LIMIT)
    worst = rounded.errors.largest()
    if not worst.error <= _WEIGHT_LIMIT:
        raise ModelRefused(
            f"The exported weights of {worst.tensor} are not the parent's: they are off by {worst.error:.0%} of their "
            f"size (limit {_WEIGHT_LIMIT:.0%}).",
            next_step="report this model; nothing was written",
        )
    return check.model_copy(update={"reference": "rounded parent", "worst_weights": worst})


def _has_gelu(checkpoint: Checkpoint) -> bool:
    return any("gelu" in str(checkpoint.config.values.get(key)) for key in ("hidden_act", "hidden_activation"))


def compare_logits(parent: npt.NDArray[np.float32], exported: npt.NDArray[np.float32], limit: float) -> LogitCheck:
    """Difference, divergence and agreement of two sets of logits (positions, vocabulary)."""
    p, q = parent.astype(np.float64), exported.astype(np.float64)
    log_p, log_q = _log_softmax(p), _log_softmax(q)
    spread = max(float(p.std()), 1e-12)
    return LogitCheck(
        n_positions=len(p),
        max_difference=float(np.abs(p - q).max()) / spread,
        mean_kl=max(0.0, float((np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean())),
        top1_agreement=float((p.argmax(axis=1) == q.argmax(axis=1)).mean()),
        limit=limit,
    )


def _engine_logits(exported: Path, prompt: list[int], n_vocab: int, beside: Beside | None) -> npt.NDArray[np.float32]:
    with tempfile.TemporaryDirectory(prefix="edgemed-logits-") as folder:
        place = Path(folder) / "logits.f32"
        question = {"path": str(exported), "prompt": prompt, "logits": str(place)}
        ask_engine(question if beside is None else question | {"adapter": str(beside.path)})
        return np.fromfile(place, np.float32).reshape(len(prompt), n_vocab)


def _log_softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
