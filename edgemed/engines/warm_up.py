"""Reads a prompt of the full context length once, before an engine calls itself ready.

What a model takes at its first long prompt and not before, a driver's scratch memory, pages of the KV cache that were
promised and never touched, then ends a start and no patient's question.
"""

from __future__ import annotations

from collections.abc import Callable

from edgemed.core.errors import EngineFailed
from edgemed.engines.base import Sampling
from edgemed.engines.scheduler import Chunk, StepEngine

_STRIDE = 7919
"""A prime: neighbouring tokens differ, so that a mixture of experts reads more than one of them."""


def warm_up(
    engine: StepEngine, vocab_size: int, limit_s: float, clock: Callable[[], float], on_progress: Callable[[int], None]
) -> int:
    """Tokens read: the full context length, or as many as `limit_s` seconds allow; at least one step.

    The slot is empty again afterwards. Raises EngineFailed with the number of tokens that could be read.
    """
    length, n_read = engine.context_length, 0
    end = clock() + limit_s
    engine.acquire(0, Sampling())
    try:
        while n_read < length and (n_read == 0 or clock() < end):
            n = min(engine.n_batch, length - n_read)
            tokens = tuple((n_read + i) * _STRIDE % vocab_size for i in range(n))
            engine.decode([Chunk(0, tokens, n_read, wants_token=n_read + n == length)])
            n_read += n
            on_progress(n_read)
    except EngineFailed as error:
        raise EngineFailed(
            f"A prompt of {length} tokens cannot be read: the engine stopped after {n_read}. {error.what}",
            next_step="plan again with a shorter context or fewer layers on the GPU",
        ) from error
    finally:
        engine.release(0)
    return n_read
