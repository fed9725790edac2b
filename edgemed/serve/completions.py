"""POST /v1/completions: a text that the model continues as it stands.

For tools that speak the old interface, and for whoever wants the model without the medical templates. Its words go to
the model alone: no template, no class's pace, no answer cache, and no word becomes a special token. What watches over
answers does so here as well: numbers are checked (the prompt counts as the question), danger signs of the prompt are
told, the notice is carried. The answer is marked: `medical.raw` is true.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema, field_validator

from edgemed.engines.base import DoneEvent, DrawnToken
from edgemed.serve import stream
from edgemed.serve.logprobs import completion_logprobs
from edgemed.serve.request_faults import read_request
from edgemed.serve.schemas import ChatMessage, ChatRequest, Conversation, DrawingFields

USUAL_TOKENS = 16
"""OpenAI's own length of an answer that names none."""
_PASSED_ON = (
    *("model", "stream", "stream_options", "seed", "stop", "user"),
    *("top_k", "min_p", "presence_penalty", "frequency_penalty"),
)

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": (),
    "logit_bias": ({},),
}
"""Options that edgemed lacks, with the values (besides null) that ask for nothing."""


_TEXT = {"type": "string", "minLength": 1}
_ONE_TEXT = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": 1}]}


class CompletionRequest(DrawingFields):
    """OpenAI's request for a text completion, as far as edgemed supports it."""

    prompt: Annotated[str, WithJsonSchema(_ONE_TEXT)] = Field(min_length=1)
    logprobs: int | None = Field(default=None, ge=0, le=5)

    @field_validator("prompt", mode="before")
    @classmethod
    def _one_text(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        if len(value) != 1 or not isinstance(value[0], str):
            raise ValueError("one text is possible here, or a list of one; token numbers are not")
        return value[0]


def read_completion(body: bytes) -> tuple[ChatRequest, Conversation]:
    """What a body asks for, in the terms of a chat request. Raises ApiError 400 that names every fault.

    Length is OpenAI's 16 tokens when left out, and the most likely token is taken: no class of question decides here.
    """
    asked = read_request(body, CompletionRequest, NEUTRAL)
    asked.check_stream_options()
    request = ChatRequest(
        messages=[ChatMessage(role="user", content=asked.prompt)],
        max_tokens=asked.max_tokens or USUAL_TOKENS,
        temperature=asked.temperature or 0.0,
        top_p=1.0 if asked.top_p is None else asked.top_p,
        logprobs=asked.logprobs is not None,
        top_logprobs=asked.logprobs,
        cache="off",
    )
    passed_on = {name: getattr(asked, name) for name in _PASSED_ON}
    return request.model_copy(update=passed_on), Conversation((), asked.prompt, raw=True)


def text_completion(
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
    """The whole answer as one `text_completion` object."""
    choice = _choice(text, done.reason, None if tokens is None else completion_logprobs(tokens, 0))
    if thought:
        choice["reasoning_content"] = thought
    return {
        **_head(answer_id, model),
        "choices": [choice],
        "usage": stream.usage_of(done),
        "notice": notice,
        "medical": medical,
    }


class CompletionWriter:
    """The chunks of one streamed text completion."""

    def __init__(self, answer_id: str, model: str, *, notice: str, include_usage: bool) -> None:
        self._head = _head(answer_id, model)
        self._notice = notice
        self._include_usage = include_usage
        self._n_bytes = 0

    def opening(self, medical: dict[str, Any]) -> bytes:
        """The first chunk: what the medical layer says of the prompt, and no text."""
        return stream.event({**self._chunk(_choice("", None)), "medical": medical})

    def text(self, text: str, tokens: Sequence[DrawnToken] = ()) -> bytes:
        """A chunk of text, with the log-probabilities of its tokens where there are any."""
        told = completion_logprobs(tokens, self._n_bytes) if tokens else None
        self._n_bytes += sum(len(token.drawn.piece) for token in tokens)
        return stream.event(self._chunk(_choice(text, None, told)))

    def thought(self, text: str) -> bytes:
        """A chunk of a reasoning model's thinking, in a field that OpenAI does not have here."""
        return stream.event(self._chunk({**_choice("", None), "reasoning_content": text}))

    def closing(self, done: DoneEvent, medical: dict[str, Any]) -> bytes:
        """The terminal chunk; then token counts where asked for."""
        last = stream.event({**self._chunk(_choice("", done.reason)), "notice": self._notice, "medical": medical})
        if not self._include_usage:
            return last
        return last + stream.event({**self._head, "choices": [], "usage": stream.usage_of(done)})

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        chunk = {**self._head, "choices": [choice]}
        return {**chunk, "usage": None} if self._include_usage else chunk


def _head(answer_id: str, model: str) -> dict[str, Any]:
    return {"id": answer_id, "object": "text_completion", "created": int(time.time()), "model": model}


def _choice(text: str, reason: str | None, logprobs: Any = None) -> dict[str, Any]:
    return {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": reason}
