"""What a head says of many positions, without ever holding all their logits.

A vocabulary of 152,000 words makes logits of a batch larger than the student: 8,192 positions take 5 GB in float32, and
losses of two models hold them several times. Here positions go through in chunks; the backward pass computes a chunk's
logits again, so one chunk's are all that lives at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK = 512
"""Positions at a time: 300 MB of float32 logits at a vocabulary of 152,000."""

OfLogits = Callable[..., Tensor]
"""Logits (positions, vocabulary), then slices of what belongs to the positions: the values (positions, ...)."""


def over_vocabulary(hidden: Tensor, head: Tensor, of_logits: OfLogits, *beside: Tensor, chunk: int = CHUNK) -> Tensor:
    """`of_logits` of hidden (positions, hidden size) @ head (vocabulary, hidden size) transposed, chunk by chunk.

    `beside` are tensors whose first axis is positions, without gradient. Equal to doing it at once, but for rounding.
    What fits in one chunk is computed once: its logits would live during the backward pass in any case.
    """

    def of_part(part: Tensor, matrix: Tensor, *rest: Tensor) -> Tensor:
        return of_logits(part @ matrix.T, *rest)

    found = []
    for start in range(0, max(1, hidden.shape[0]), chunk):
        at = slice(start, start + chunk)
        given = (hidden[at], head, *(one[at] for one in beside))
        again = torch.is_grad_enabled() and hidden.shape[0] > chunk
        found.append(checkpoint(of_part, *given, use_reentrant=False) if again else of_part(*given))
    return torch.cat(found)
