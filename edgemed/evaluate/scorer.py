"""What every measurement asks of a model: logits for given tokens, and a greedy answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def settled(
    judge: Callable[[Sequence[int]], Sequence[int]],
    guess: Callable[[list[int]], list[int]],
    ends_answer: Callable[[int], bool],
    max_tokens: int,
) -> list[int]:
    """The greedy answer as `judge` has it, with few questions to it.

    `judge` reads a whole answer: the most likely token at each of its places, and after its end. `guess` carries an
    answer on token by token, which is fast, and adds up in another order. Where the judge finds another token, a near
    tie, its token stands, and the guessing goes on from there.
    """
    answer: list[int] = []
    for _ in range(max_tokens + 1):  # each round settles one token at least, where the judge repeats itself
        judged = judge(answer)
        agreed = next((n for n, token in enumerate(answer) if judged[n] != token), len(answer))
        answer = answer[:agreed]
        if agreed >= max_tokens or ends_answer(judged[agreed]):
            break
        answer = guess([*answer, judged[agreed]])
    return answer[:max_tokens]
