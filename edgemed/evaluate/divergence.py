"""How far one model's predictions are from another's, on the same tokens: plain numpy, sums in float64.

KL(parent || child) = sum over the vocabulary of p (log p - log q), in nats, p and q the softmax of the logits. It is
what a token costs on average in surprise when the child is taken for the parent (Kullback and Leibler 1951).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgemed.core.errors import ModelRefused, UsageError
from edgemed.core.records import Record

_ROWS = 16
"""Rows in float64 at a time: 20 MB for 152,000 tokens."""

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Divergence:
    """What is known of each position of a text, all of shape (positions,)."""

    kl: Floats
    """KL(parent || child) in nats."""
    parent_first: Ints
    """The parent's most likely token."""
    child_first: Ints
    parent_nll: Floats
    """-log of the probability that the parent gives the token that stands there."""
    child_nll: Floats

    @property
    def agree(self) -> Bools:
        """Where both have the same most likely token."""
        agree: Bools = self.parent_first == self.child_first
        return agree

    def only(self, mask: Bools) -> Divergence:
        """The positions where `mask` is true."""
        return Divergence(
            self.kl[mask], self.parent_first[mask], self.child_first[mask], self.parent_nll[mask], self.child_nll[mask]
        )


class DivergenceSummary(Record):
    """A divergence in a few numbers. Without positions all of them are 0, and the ratio 1."""

    n_positions: int
    kl_mean: float
    kl_p99: float
    kl_max: float
    top1_agreement: float
    """Share of positions with the same most likely token; 1 without positions."""
    parent_perplexity: float
    """exp of the mean negative log-likelihood of the tokens that stand there."""
    child_perplexity: float
    perplexity_ratio: float
    """Child by parent: 1.02 is 2 % worse."""


def divergence(parent: npt.NDArray[np.float32], child: npt.NDArray[np.float32], tokens: Sequence[int]) -> Divergence:
    """Position by position, for logits (positions, n_vocab) of both models; `tokens` are those that stand there.

    Raises UsageError when the vocabularies differ in size, ModelRefused when a logit is no number.
    """
    if parent.shape[1] != child.shape[1]:
        raise UsageError(
            f"The models have vocabularies of {parent.shape[1]} and {child.shape[1]} tokens and cannot be compared.",
            next_step="name the parent that the model was made from",
        )
    if not len(parent) == len(child) == len(tokens):
        raise ValueError(f"logits {parent.shape} and {child.shape} for {len(tokens)} tokens")
    for name, logits in (("parent", parent), ("child", child)):
        if not np.isfinite(logits).all():
            raise ModelRefused(
                f"The {name} computes values that are no numbers (NaN or infinite).",
                next_step="look for the damaged tensor; export or quantize the model again",
            )
    at = np.asarray(tokens, np.int64)
    kl, nll = np.empty(len(at)), np.empty((2, len(at)))
    for start in range(0, len(at), _ROWS):
        rows = slice(start, start + _ROWS)
        log_p, log_q = log_softmax(parent[rows]), log_softmax(child[rows])
        kl[rows] = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
        for number, logs in enumerate((log_p, log_q)):
            nll[number, rows] = -np.take_along_axis(logs, at[rows, None], axis=1)[:, 0]
    parent_first, child_first = parent.argmax(axis=1).astype(np.int64), child.argmax(axis=1).astype(np.int64)
    return Divergence(np.maximum(kl, 0.0), parent_first, child_first, nll[0], nll[1])


def joined(parts: Sequence[Divergence]) -> Divergence:
    """The positions of all `parts`, one after the other."""
    none: Floats = np.empty(0)
    if not parts:
        return Divergence(none, none.astype(np.int64), none.astype(np.int64), none, none)
    return Divergence(
        np.concatenate([part.kl for part in parts]),
        np.concatenate([part.parent_first for part in parts]),
        np.concatenate([part.child_first for part in parts]),
        np.concatenate([part.parent_nll for part in parts]),
        np.concatenate([part.child_nll for part in parts]),
    )


def summary(found: Divergence) -> DivergenceSummary:
    """The numbers of a report. The 99th percentile is the smallest KL that 99 % of positions do not exceed."""
    n = len(found.kl)
    if not n:
        return DivergenceSummary(
            n_positions=0, kl_mean=0, kl_p99=0, kl_max=0, top1_agreement=1,
            parent_perplexity=1, child_perplexity=1, perplexity_ratio=1,
        )  # fmt: skip
    parent, child = float(found.parent_nll.mean()), float(found.child_nll.mean())
    return DivergenceSummary(
        n_positions=n,
        kl_mean=float(found.kl.mean()),
        kl_p99=float(np.quantile(found.kl, 0.99, method="inverted_cdf")),
        kl_max=float(found.kl.max()),
        top1_agreement=float(found.agree.mean()),
        parent_perplexity=_exp(parent),
        child_perplexity=_exp(child),
        perplexity_ratio=_exp(child - parent),
    )


def log_softmax(logits: npt.NDArray[np.float32]) -> Floats:
    """Float64 log-probabilities of logits (rows, n_vocab)."""
    values = logits.astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=1, keepdims=True))
    return values


def _exp(value: float) -> float:
    return float(np.exp(min(value, 700.0)))  # a float64 ends at e^709
