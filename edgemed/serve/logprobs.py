"""Log-probabilities of an answer's tokens, in the forms that OpenAI's clients read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from edgemed.engines.base import DrawnToken, TokenLogprob

_LEAST = -9999.0
"""OpenAI's number for what is next to impossible; JSON has no infinity."""


def chat_logprobs(tokens: Iterable[DrawnToken]) -> dict[str, Any]:
    """`choices[0].logprobs` of a chat completion."""
    content = [{**_said(token.drawn), "top_logprobs": [_said(one) for one in token.likeliest]} for token in tokens]
    return {"content": content, "refusal": None}


def completion_logprobs(tokens: Sequence[DrawnToken], n_before: int) -> dict[str, Any]:
    """`choices[0].logprobs` of a text completion; `n_before` bytes of its text stand before these tokens.

    `text_offset` counts bytes of UTF-8, for a token may be half a letter; of plain English they are letters.
    """
    offsets = []
    for token in tokens:
        offsets.append(n_before)
        n_before += len(token.drawn.piece)
    return {
        "tokens": [_text(token.drawn) for token in tokens],
        "token_logprobs": [_finite(token.drawn.logprob) for token in tokens],
        "top_logprobs": [{_text(one): _finite(one.logprob) for one in reversed(token.likeliest)} for token in tokens],
        "text_offset": offsets,
    }


def _said(one: TokenLogprob) -> dict[str, Any]:
    return {"token": _text(one), "logprob": _finite(one.logprob), "bytes": list(one.piece)}


def _text(one: TokenLogprob) -> str:
    return one.piece.decode("utf-8", errors="replace")


def _finite(logprob: float) -> float:
    return max(logprob, _LEAST)
