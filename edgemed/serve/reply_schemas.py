"""What the server's answers look like, for its OpenAPI document and the tests that hold answers to it.

The answers themselves are put together as plain dicts, token by token; these models are never filled on that way.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from edgemed.medical.calculators.record import CalculatorForm, InputFault
from edgemed.serve.unfinished import Interrupted

FinishReason = Literal["stop", "length"]


class Told(BaseModel):
    """A part of an answer: no field that is not named here."""

    model_config = ConfigDict(extra="forbid")


class ErrorFields(Told):
    """The inside of OpenAI's error object."""

    message: str
    type: Literal["invalid_request_error", "server_error"]
    param: str | None
    code: str | None
    faults: list[InputFault] | None = None
    """Of a calculator's inputs."""


class ErrorReply(Told):
    """Every error, in a stream too."""

    error: ErrorFields


class PromptTokensDetails(Told):
    """Of the prompt's tokens."""

    cached_tokens: int


class CompletionTokensDetails(Told):
    """Of the answer's tokens."""

    reasoning_tokens: int


class Usage(Told):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class LikelyToken(Told):
    """A token and how likely it was."""

    token: str
    logprob: float
    bytes: list[int]


class ToldToken(LikelyToken):
    """A token of the answer."""

    top_logprobs: list[LikelyToken]


class ChatLogprobs(Told):
    """Of a chat completion."""

    content: list[ToldToken]
    refusal: None


class CompletionLogprobs(Told):
    """Of a text completion."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class DangerSign(Told):
    """Somebody may need help at once."""

    sign: str
    words: str


class Note(Told):
    """What an abbreviation, brand or everyday word stands for."""

    surface: str
    kind: str
    meanings: list[str]
    ambiguous: bool
    warning: str


class Cached(Told):
    """This is a saved answer."""

    made: str
    age_s: int


class NumberFields(Told):
    """A number with a unit, and the guard's verdict on it."""

    text: str
    start: int
    end: int
    verdict: str
    source: str | None
    source_says: str | None


class Medical(Told):
    """What the medical layer says of a question, and of its answer when that has ended."""

    language: str
    category: str
    subclass: str | None
    reasons: list[str]
    danger_signs: list[DangerSign]
    danger_checked: bool
    notes: list[Note]
    cached: Cached | None
    asked_numbers: list[NumberFields]
    raw: Literal[True] | None = None
    """Of a text completion."""
    numbers: list[NumberFields] | None = None
    numbers_summary: dict[str, int] | None = None
    numbers_unchecked: int | None = None
    """Of an answer in JSON: its numbers without a unit, which nobody checked."""


class ChatAnswerMessage(Told):
    """The answer."""

    role: Literal["assistant"]
    content: str
    refusal: None
    reasoning_content: str | None = None


class ChatChoice(Told):
    """The one answer."""

    index: Literal[0]
    message: ChatAnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatReply(Told):
    """A whole chat completion."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    notice: str
    medical: Medical


class CompletionChoice(Told):
    """The one continuation."""

    index: Literal[0]
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason
    reasoning_content: str | None = None


class CompletionReply(Told):
    """A whole text completion."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    notice: str
    medical: Medical


class Embedding(Told):
    """One text's vector, as numbers or as base64 of float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Told):
    """Token counts of the texts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingReply(Told):
    """The vectors in the order of the texts."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class ModelEntry(Told):
    """A model that can be asked for."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(Told):
    """All of them."""

    object: Literal["list"]
    data: list[ModelEntry]


class CalculatorList(Told):
    """The forms of all calculators."""

    calculators: list[CalculatorForm]


class CalculatorInputs(Told):
    """What a calculator is given."""

    inputs: dict[str, Any]


class NewSession(Told):
    """A conversation's key."""

    id: str
    expires_in_s: float


class SessionState(Told):
    """A conversation, and what was interrupted in it."""

    id: str
    unfinished: list[Interrupted]
