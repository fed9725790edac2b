"""What LoRA needs beyond PEFT: ranks by need (ALORA) and factors kept sound while they are trained (StableSVD).

h = W0 x + s B A x with B (d, r) and A (r, k). rsLoRA scales by s = alpha / sqrt(r), which PEFT knows; the ranks go to
it as `rank_pattern`, with `alpha_pattern` so that s stays what it was when ranks differ. StableSVD looks at the product
B A through the QR factors of B and A alone: a 18944 x 3584 matrix of rank 16 is never formed.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Factors:
    """B (d, r) and A (r, k) of one adapter."""

    b: Tensor
    a: Tensor

    @property
    def product(self) -> Tensor:
        """B A, (d, k): for tests and merging."""
        return self.b @ self.a


@dataclass(frozen=True, slots=True)
class Stabilised:
    """The same adapter with orthogonal, balanced factors, and what was found."""

    factors: Factors
    """Of the same rank; rows and columns beyond `rank` are zero."""
    rank: int
    """Singular values that were kept."""
    condition: float
    """Largest by smallest of those."""
    damping: float
    """lambda of the Tikhonov damping; 0 changes nothing."""


def stable_svd(factors: Factors, *, most_condition: float = 1e3, drop_below: float = 1e-6) -> Stabilised | None:
    """The factors with small singular values dropped and the rest damped, where they are ill-conditioned.

    Equation (4): with s the singular values of B A, those below `drop_below` of the largest go; then
    lambda = (s_1 / most_condition)^2 clip(kappa / most_condition - 1, 0, 1) and s~ = s^3 / (s^2 + lambda). The paper's
    lambda I is undefined for matrices that are not square; this reads it as Tikhonov's in the Gram matrix. Works in
    float64, costs O((d + k) r^2). None while B is zero, as it is before the first step.
    """
    b, a = factors.b.double(), factors.a.double()
    q_b, r_b = torch.linalg.qr(b)
    q_a, r_a = torch.linalg.qr(a.T)
    u, s, v_t = torch.linalg.svd(r_b @ r_a.T)
    if not s[0] > 0:
        return None
    keep = s > drop_below * s[0]
    condition = float(s[0] / s[keep][-1])
    damping = float((s[0] / most_condition) ** 2) * min(max(condition / most_condition - 1, 0.0), 1.0)
    damped = torch.where(keep, s**3 / (s**2 + damping), torch.zeros_like(s))
    root = damped.sqrt()
    dtype = factors.b.dtype
    new = Factors((q_b @ u * root).to(dtype), (root[:, None] * (v_t @ q_a.T)).to(dtype))
    return Stabilised(new, int(keep.sum()), condition, damping)


def allocate_ranks(
    scores: Mapping[str, Sequence[float]], sizes: Mapping[str, tuple[int, int]], budget: int, *, least: int = 1
) -> dict[str, int]:
    """The rank of each module: as much of the modules' scores as `budget` parameters buy.

    `scores` are the singular values of each module's first gradient, falling; the n-th is what the n-th rank is worth,
    its square, by the d + k parameters it costs. Equal scores and sizes get ranks that differ by at most one. Raises
    ValueError when not even `least` everywhere fits, or a module has no score for it.
    """
    ranks = dict.fromkeys(scores, least)
    left = budget - sum(least * sum(sizes[name]) for name in scores)
    if left < 0 or any(len(values) < least for values in scores.values()):
        needed = sum(least * sum(sizes[name]) for name in scores)
        raise ValueError(f"rank {least} everywhere needs {needed} parameters and as many scores; {budget} were given")
    # Taken by rank first among equals: (worth falling, rank, name).
    queue = [entry for name in scores if (entry := _next_rank(name, ranks[name], scores, sizes))]
    heapq.heapify(queue)
    while queue:
        _, _, name = heapq.heappop(queue)
        cost = sum(sizes[name])
        if cost > left:
            continue  # and none of its further ranks, each as dear
        left -= cost
        ranks[name] += 1
        if entry := _next_rank(name, ranks[name], scores, sizes):
            heapq.heappush(queue, entry)
    return ranks


def _next_rank(
    name: str, rank: int, scores: Mapping[str, Sequence[float]], sizes: Mapping[str, tuple[int, int]]
) -> tuple[float, int, str] | None:
    if rank >= len(scores[name]):
        return None
    return -(scores[name][rank] ** 2) / sum(sizes[name]), rank, name


def alpha_pattern(ranks: Mapping[str, int], scale: float, *, stabilised: bool = True) -> dict[str, float]:
    """alpha by module with which rsLoRA's alpha / sqrt(r), or plain LoRA's alpha / r, is `scale` at every rank."""
    return {name: scale * (rank**0.5 if stabilised else rank) for name, rank in ranks.items()}
