"""What every measurement asks of a model: logits for given tokens, and a greedy answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt


class Scorer(Protocol):
    """A model opened for measuring. Equal questions have equal answers, whatever was asked before."""

    def greedy(self, prompt_ids: Sequence[int], max_tokens: int) -> list[int]:
        """The most likely next token, again and again; the token that ends the answer is left out."""

    def logits(self, ids: Sequence[int], first: int) -> npt.NDArray[np.float32]:
        """Float32 (len(ids) - first, n_vocab): row i is the prediction for ids[first + i], made after ids[:first + i].

        `first` is at least 1. Raises EngineFailed when the model's process ends, UsageError for more tokens than the
        scorer was opened for.
        """

    def close(self) -> None:
        """Free the model; the scorer is of no use afterwards."""
