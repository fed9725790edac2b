"""Answers in OpenAI's form: one JSON object, or server-sent events that end with exactly one terminal event."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from edgemed.engines.base import DoneEvent, DrawnToken
from edgemed.serve.errors import ApiError
from edgemed.serve.logprobs import chat_logprobs

DONE = b"data: [DONE]\n\n"

SSE_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # a proxy in front must not hold the words back
]


def error_event(error: ApiError) -> bytes:
    """The terminal event of a stream that failed."""
    return event(error.body())


def comment(text: str) -> bytes:
    """A line that clients ignore, and that keeps the connection alive."""
    return f": {text}\n\n".encode()


def usage_of(done: DoneEvent) -> dict[str, Any]:
    """OpenAI's token counts."""
    return {
        "prompt_tokens": done.prompt_tokens,
        "completion_tokens": done.completion_tokens,
        "total_tokens": done.prompt_tokens + done.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": done.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": done.reasoning_tokens},
    }


def completion(
    answer_id: str,
    model: str,
    text: str,
    done: DoneEvent,
    *,
    thought: str,
    tokens: Sequence[DrawnToken] | None,
    notice: str,
    medical: dict[str, Any],
) -> dict[str, Any]:
    """The whole answer as one `chat.completion` object; a reasoning model's thinking has a field of its own.

    `tokens` are told with their log-probabilities; None where nobody asked for them.
    """
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if thought:
        message["reasoning_content"] = thought
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None if tokens is None else chat_logprobs(tokens),
        "finish_reason": done.reason,
    }
    return {
        "id": answer_id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [choice],
        "usage": usage_of(done),
        "notice": notice,
        "medical": medical,
    }


class ChunkWriter:
    """The chunks of one stream; the parts that never change are encoded once."""

    def __init__(self, answer_id: str, model: str, *, notice: str, include_usage: bool) -> None:
        self._head: dict[str, Any] = {
            "id": answer_id,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }
        self._notice = notice
        self._include_usage = include_usage
        before, after = json.dumps(self._chunk({"content": "\x00"}, None)).split('"\\u0000"')
        self._before, self._after = f"data: {before}", f"{after}\n\n"

    def opening(self, medical: dict[str, Any]) -> bytes:
        """The first chunk: the role, what the medical layer says of the question, and no text."""
        return event({**self._chunk({"role": "assistant", "content": ""}, None), "medical": medical})

    def text(self, text: str, tokens: Sequence[DrawnToken] = ()) -> bytes:
        """A chunk of text, with the log-probabilities of its tokens where there are any."""
        if tokens:
            return event(self._chunk({"content": text}, None, chat_logprobs(tokens)))
        return f"{self._before}{json.dumps(text)}{self._after}".encode()

    def thought(self, text: str) -> bytes:
        """A chunk of thinking, in the field that servers of reasoning models use for it."""
        return event(self._chunk({"reasoning_content": text}, None))

    def closing(self, done: DoneEvent, medical: dict[str, Any]) -> bytes:
        """The terminal chunk: its reason, the notice, the verdicts on numbers; then token counts where asked for."""
        last = event({**self._chunk({}, done.reason), "notice": self._notice, "medical": medical})
        if not self._include_usage:
            return last
        return last + event({**self._head, "choices": [], "usage": usage_of(done)})

    def _chunk(self, delta: dict[str, str], reason: str | None, logprobs: Any = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        chunk = {**self._head, "choices": [choice]}
        return {**chunk, "usage": None} if self._include_usage else chunk


def event(content: Any) -> bytes:
    """One event of a stream."""
    return f"data: {json.dumps(content)}\n\n".encode()
