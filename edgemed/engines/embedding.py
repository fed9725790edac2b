"""Sentence embeddings: their length in tokens, their form on the wire, and how a text gets one."""

from __future__ import annotations

import base64
import math
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgemed.core.errors import EngineFailed, UsageError
from edgemed.core.prompt import PromptPart

if TYPE_CHECKING:
    from edgemed.engines.base import Engine

EMBEDDED_TOKENS = 512
"""Tokens of a text that its embedding is made of: the first ones; what follows is left out."""


def embed_text(engine: Engine, text: str) -> list[float]:
    """The embedding of a plain text: `engine.embed` of its tokens. Raises what `tokenize` and `embed` raise."""
    return engine.embed(engine.tokenize([PromptPart(text, special=False)]))


def embedded_tokens(token_ids: Sequence[int]) -> list[int]:
    """The tokens that count. Raises UsageError when there are none."""
    if not token_ids:
        raise UsageError("There is no text to embed.", next_step="write one")
    return list(token_ids[:EMBEDDED_TOKENS])


def normalised(values: Sequence[float]) -> list[float]:
    """The vector of length 1 in the same direction. Raises EngineFailed for one without a direction."""
    length = math.sqrt(sum(value * value for value in values))
    if not (math.isfinite(length) and length > 0):
        raise EngineFailed("This model cannot embed texts: it computes a vector without a direction.")
    return [value / length for value in values]


def encode_vector(values: Sequence[float]) -> str:
    """Base64 of float32; both ends are the same machine, so the bytes keep its order."""
    return base64.b64encode(array("f", values).tobytes()).decode("ascii")


def decode_vector(text: str) -> list[float]:
    """The vector `encode_vector` wrote."""
    values = array("f")
    values.frombytes(base64.b64decode(text))
    return values.tolist()
