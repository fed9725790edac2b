"""The body of a chat request, checked: what is unknown, unsupported or of the wrong type is named and refused.

Only user and assistant messages are accepted. The system role belongs to edgemed's own medical templates:
a client's words must never reach it, so "system" and "developer" messages are refused, not merged.
Temperature and length default to the pace of the question's class, where OpenAI's temperature is 1: the same question
about a dose gets the same answer.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails

from edgemed.core.prompt import Message
from edgemed.serve.body import parsed_json
from edgemed.serve.errors import ApiError

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none",),
    "function_call": ("none",),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
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
_MAX_SOURCES = 8
_MAX_TITLE_CHARACTERS = 200
_MAX_CITED_CHARACTERS = 20_000

_BLANK_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"
"""Letters and signs by their class, blank to the eye."""

_WORDS = {
    "extra_forbidden": "not a field edgemed knows",
    "missing": "is missing",
    "too_short": "must hold at least one entry",
    "too_long": "may hold at most {max_length} entries",
    "string_too_short": "must not be empty",
    "string_too_long": "may have at most {max_length} characters",
    "literal_error": "must be one of {expected}",
    "dict_type": "must be a JSON object",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a number",
    "list_type": "must be a list",
    "model_type": "must be a JSON object",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
}
"""The validator's kinds of fault, without its jargon."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class ChatMessage(_Strict):
    """One turn as the client sent it."""

    role: str
    content: str
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


class StreamOptions(_Strict):
    """What a stream carries besides the text."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Calculation(_Strict):
    """A calculator and its inputs: calculated again here, so that its result can support a number."""

    name: str
    inputs: dict[str, Any]


class Citation(_Strict):
    """A text that may support numbers of the answer; it is not put into the prompt."""

    title: str = Field(min_length=1, max_length=_MAX_TITLE_CHARACTERS)
    text: str = Field(max_length=_MAX_CITED_CHARACTERS)


class ChatRequest(_Strict):
    """OpenAI's request for a chat completion, as far as edgemed supports it, and edgemed's own fields."""

    messages: list[ChatMessage] = Field(min_length=1)
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    seed: int | None = Field(default=None, ge=-_INT64, lt=_INT64)
    stop: list[str] | None = None
    user: str | None = None
    language: str | None = None
    """Of the question: chooses templates, keywords and danger signs."""
    session: str | None = Field(default=None, max_length=64)
    """A key from POST /api/sessions: what the conversation's last turn left in the KV cache may be used again."""
    cache: Literal["use", "retry", "off"] | None = None
    """"retry" asks anew and forgets the saved answer."""
    calculations: list[Calculation] | None = Field(default=None, max_length=_MAX_SOURCES)
    cited: list[Citation] | None = Field(default=None, max_length=_MAX_SOURCES)

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

    @property
    def token_limit(self) -> int | None:
        """Tokens the answer may have, under either of the two names."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def include_usage(self) -> bool:
        """Whether the stream ends with a chunk of token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)


@dataclass(frozen=True, slots=True)
class Conversation:
    """Earlier turns, and the question to answer now."""

    history: tuple[Message, ...]
    question: str


def read_chat_request(body: bytes) -> ChatRequest:
    """The checked request. Raises ApiError 400 that names every fault."""
    content = parsed_json(body)
    if not isinstance(content, dict):
        raise ApiError(400, "The body must be a JSON object.", code="invalid_type")
    _refuse_unsupported(content)
    known = {key: value for key, value in content.items() if key not in NEUTRAL}
    try:
        request = ChatRequest.model_validate(known)
    except ValidationError as error:
        raise _explained(error) from None
    _check_together(request)
    return request


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


def _refuse_unsupported(content: dict[str, Any]) -> None:
    wanted = [
        name
        for name, neutral in NEUTRAL.items()
        if content.get(name) is not None and not any(_same(content[name], value) for value in neutral)
    ]
    if wanted:
        raise ApiError(
            400,
            f"Not supported by edgemed: {', '.join(wanted)}. Leave {'it' if len(wanted) == 1 else 'them'} out.",
            code="unsupported_parameter",
            param=wanted[0],
        )


def _same(value: Any, neutral: Any) -> bool:
    # 1 == True in Python; JSON's true is no number
    return isinstance(value, bool) == isinstance(neutral, bool) and bool(value == neutral)


def _check_together(request: ChatRequest) -> None:
    one, other = request.max_tokens, request.max_completion_tokens
    if one is not None and other is not None and one != other:
        raise ApiError(
            400,
            f"max_tokens ({one}) and max_completion_tokens ({other}) differ; send one of them.",
            code="invalid_value",
            param="max_tokens",
        )
    if request.stream_options is not None and not request.stream:
        raise ApiError(400, "stream_options needs stream: true.", code="invalid_value", param="stream_options")


def _explained(error: ValidationError) -> ApiError:
    """One message that names every fault, never the value that was sent."""
    faults = error.errors(include_input=False, include_url=False)
    names = [_place(fault["loc"]) for fault in faults]
    lines = [f"{name}: {_in_plain_words(fault)}" for name, fault in zip(names, faults, strict=True)]
    shown = "; ".join(lines[:5]) + (f"; and {len(lines) - 5} more" if len(lines) > 5 else "")
    code = {"extra_forbidden": "unknown_parameter", "missing": "missing_required_parameter"}.get(
        faults[0]["type"], "invalid_type" if faults[0]["type"].endswith("_type") else "invalid_value"
    )
    return ApiError(400, shown + ".", code=code, param=names[0])


def _place(loc: tuple[int | str, ...]) -> str:
    name = ""
    for step in loc:
        name += f"[{step}]" if isinstance(step, int) else f".{str(step)[:64]}" if name else str(step)[:64]
    return name


def _in_plain_words(fault: ErrorDetails) -> str:
    if words := _WORDS.get(fault["type"]):
        return words.format_map(fault.get("ctx", {}))
    message = fault["msg"].removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
