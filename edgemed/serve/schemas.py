"""The body of a chat request, checked: what is unknown, unsupported or of the wrong type is named and refused.

Only user and assistant messages are accepted. The system role belongs to edgemed's own medical templates:
a client's words must never reach it, so "system" and "developer" messages are refused, not merged.
Temperature and length default to the pace of the question's class, where OpenAI's temperature is 1: the same question
about a dose gets the same answer.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema, field_validator

from edgemed.core.prompt import Message
from edgemed.serve.answer_form import ResponseFormat
from edgemed.serve.errors import ApiError
from edgemed.serve.request_faults import Strict, read_request

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logit_bias": ({},),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none",),
    "function_call": ("none",),
    "parallel_tool_calls": (True, False),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
    "moderation": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "metadata": ({},),
    "prompt_cache_key": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": (),
    "safety_identifier": (),
}
"""OpenAI's options that edgemed lacks, with the values (besides null) that ask for nothing."""

_MAX_STOPS = 4
_MAX_STOP_CHARACTERS = 256
_INT64 = 2**63
_INT31 = 2**31
_MAX_SOURCES = 8
_MAX_TITLE_CHARACTERS = 200
_MAX_CITED_CHARACTERS = 20_000

_BLANK_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"
"""Letters and signs by their class, blank to the eye."""


_STOP = {"type": "string", "minLength": 1, "maxLength": _MAX_STOP_CHARACTERS}
_ONE_OR_SEVERAL = {"anyOf": [_STOP, {"type": "array", "items": _STOP, "maxItems": _MAX_STOPS}]}
_TEXT_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
}
_TEXT_OR_PARTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": _TEXT_PART}]}


class ChatMessage(Strict):
    """One turn as the client sent it."""

    role: Annotated[str, WithJsonSchema({"enum": ["user", "assistant"]})]
    content: Annotated[str, WithJsonSchema(_TEXT_OR_PARTS)]
    name: str | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _join_text_parts(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        texts = [part.get("text") for part in value if isinstance(part, dict) and part.get("type") == "text"]
        if len(texts) != len(value) or not all(isinstance(text, str) for text in texts):
            raise ValueError('only text parts are supported: {"type": "text", "text": "..."}')
        return "\n".join(text for text in texts if isinstance(text, str))


class StreamOptions(Strict):
    """What a stream carries besides the text."""

    include_usage: bool | None = None
    include_obfuscation: Annotated[bool, WithJsonSchema({"const": False})] | None = None

    @field_validator("include_obfuscation")
    @classmethod
    def _not_padded(cls, value: bool | None) -> bool | None:
        if value:
            raise ValueError("is not supported: chunks are not padded; leave it out")
        return value


class Calculation(Strict):
    """A calculator and its inputs: calculated again here, so that its result can support a number."""

    name: str
    inputs: dict[str, Any]


class Citation(Strict):
    """A text that may support numbers of the answer; it is not put into the prompt."""

    title: str = Field(min_length=1, max_length=_MAX_TITLE_CHARACTERS)
    text: str = Field(max_length=_MAX_CITED_CHARACTERS)


class DrawingFields(Strict):
    """How an answer is drawn and told: what chat and text completions have in common."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    top_k: int | None = Field(default=None, ge=0, lt=_INT31)
    """Not OpenAI's; 0 keeps all."""
    min_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    """Not OpenAI's: drops what is less likely than this share of the likeliest."""
    presence_penalty: float | None = Field(default=None, ge=-2, le=2, allow_inf_nan=False)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2, allow_inf_nan=False)
    seed: int | None = Field(default=None, ge=-_INT64, lt=_INT64)
    stop: Annotated[list[str], WithJsonSchema(_ONE_OR_SEVERAL)] | None = None
    user: str | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        stops = [value] if isinstance(value, str) else value
        if isinstance(stops, list) and (len(stops) > _MAX_STOPS or "" in stops):
            raise ValueError(f"at most {_MAX_STOPS} strings, none of them empty")
        for stop in stops if isinstance(stops, list) else ():
            if isinstance(stop, str) and len(stop) > _MAX_STOP_CHARACTERS:
                raise ValueError(f"one has {len(stop)} characters; {_MAX_STOP_CHARACTERS} are possible")
        return stops

    def check_stream_options(self) -> None:
        """Raises ApiError 400 for options of a stream that is not asked for."""
        if self.stream_options is not None and not self.stream:
            raise ApiError(400, "stream_options needs stream: true.", code="invalid_value", param="stream_options")


class ChatRequest(DrawingFields):
    """OpenAI's request for a chat completion, as far as edgemed supports it, and edgemed's own fields."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    language: str | None = None
    """Of the question: chooses templates, keywords and danger signs."""
    session: str | None = Field(default=None, max_length=64)
    """A key from POST /api/sessions: what the conversation's last turn left in the KV cache may be used again."""
    cache: Literal["use", "retry", "off"] | None = None
    """"retry" asks anew and forgets the saved answer."""
    calculations: list[Calculation] | None = Field(default=None, max_length=_MAX_SOURCES)
    cited: list[Citation] | None = Field(default=None, max_length=_MAX_SOURCES)

    @property
    def token_limit(self) -> int | None:
        """Tokens the answer may have, under either of the two names."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def n_likeliest(self) -> int | None:
        """Likely tokens to tell beside each drawn one; None where no log-probabilities are wanted."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def is_plain(self) -> bool:
        """Whether a saved answer may stand for it: it asks for no form, no log-probabilities, no drawing of its own."""
        form = self.response_format is None or self.response_format.type == "text"
        own = (self.top_k, self.min_p, self.presence_penalty, self.frequency_penalty, self.logprobs)
        return form and not any(own)

    @property
    def include_usage(self) -> bool:
        """Whether the stream ends with a chunk of token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)


@dataclass(frozen=True, slots=True)
class Conversation:
    """Earlier turns, and the question to answer now."""

    history: tuple[Message, ...]
    question: str
    raw: bool = False
    """A text to be continued as it stands: no question, and nobody's instructions around it."""

    @property
    def param(self) -> str:
        """The field of the request that holds it."""
        return "prompt" if self.raw else "messages"


def read_chat_request(body: bytes) -> ChatRequest:
    """The checked request. Raises ApiError 400 that names every fault."""
    request = read_request(body, ChatRequest, NEUTRAL)
    _check_together(request)
    return request


def read_chat(body: bytes) -> tuple[ChatRequest, Conversation]:
    """The checked request and its turns. Raises ApiError 400."""
    request = read_chat_request(body)
    return request, conversation_of(request)


def conversation_of(request: ChatRequest) -> Conversation:
    """The turns in order: user first, then taking turns, user last. Raises ApiError 400 otherwise."""
    turns: list[Message] = []
    for number, message in enumerate(request.messages):
        where = f"messages[{number}]"
        if message.role in ("system", "developer"):
            raise ApiError(
                400,
                f"{where}: the {message.role} role is not accepted: edgemed puts its own medical instructions "
                "there. Leave that message out, or make it part of the question.",
                code="system_role_refused",
                param=f"{where}.role",
            )
        expected = "user" if number % 2 == 0 else "assistant"
        if message.role != expected:
            raise ApiError(
                400,
                f"{where}: role {expected!r} was expected here; messages take turns, user first and user last.",
                code="invalid_role",
                param=f"{where}.role",
            )
        if says_nothing(message.content):
            raise ApiError(400, f"{where}: the message is empty.", code="empty_message", param=f"{where}.content")
        turns.append({"role": "user" if expected == "user" else "assistant", "content": message.content})
    if len(turns) % 2 == 0:
        raise ApiError(400, "The last message must be the user's question.", code="invalid_role", param="messages")
    return Conversation(tuple(turns[:-1]), turns[-1]["content"])


def says_nothing(text: str) -> bool:
    """Whether nobody can see anything in a text: blanks, control and zero-width characters, marks without a letter."""
    return not any(unicodedata.category(letter)[0] in "LNPS" and letter not in _BLANK_LETTERS for letter in text)


def _check_together(request: ChatRequest) -> None:
    one, other = request.max_tokens, request.max_completion_tokens
    if one is not None and other is not None and one != other:
        raise ApiError(
            400,
            f"max_tokens ({one}) and max_completion_tokens ({other}) differ; send one of them.",
            code="invalid_value",
            param="max_tokens",
        )
    request.check_stream_options()
    if request.top_logprobs and not request.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true.", code="invalid_value", param="top_logprobs")
    if request.stop and request.response_format is not None and request.response_format.type != "text":
        raise ApiError(
            400,
            "stop and response_format exclude each other: a stop string would cut the JSON.",
            code="invalid_value",
            param="stop",
        )
