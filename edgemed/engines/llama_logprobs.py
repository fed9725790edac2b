"""Log-probabilities of a drawn token, from the logits of its step: before penalties, filters, temperature, grammar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgemed.engines.base import DrawnToken, TokenLogprob


def drawn_token(logits: Any, n_vocab: int, token: int, n_likeliest: int, piece: Callable[[int], bytes]) -> DrawnToken:
    """The token with its log-probability, and the `n_likeliest` ones of its step, in falling order.

    `logits` is a C pointer to `n_vocab` floats. With 152,000 words some 0.5 ms, and 1.7 ms with likely
    ones (benchmarks/bench_drawing.py); numpy is imported with the first (0.1 s).
    """
    import numpy as np

    values = np.ctypeslib.as_array(logits, shape=(n_vocab,))
    top = float(values.max())
    total = top + float(np.log(np.exp(values - top).sum(dtype=np.float64)))
    n_likeliest = min(n_likeliest, n_vocab)
    likeliest = np.argpartition(values, n_vocab - n_likeliest)[n_vocab - n_likeliest :] if n_likeliest else ()
    in_order = sorted((int(one) for one in likeliest), key=lambda one: (-values[one], one))

    def with_logprob(one: int) -> TokenLogprob:
        return TokenLogprob(piece(one), float(values[one]) - total)

    return DrawnToken(with_logprob(token), tuple(map(with_logprob, in_order)))
