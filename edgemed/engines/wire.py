"""The language between a server and its engine process: one JSON array per line, both ways.

JSON and not pickle: the child reads model files from a stick, and nothing it says may run code in the parent.

    parent to child    [SUBMIT, {fields of the request that differ from their defaults}, age_s]
                       [CANCEL, id]
                       [PIN, [ids, ...]]
                       [FORGET, session]
                       [TOKENIZE, number, [[text, special], ...]]
                       [EMBED, number, ids]
    child to parent    [[kind, ...], ...]   every event of one step in one line; [] says only "a step was done"
        while loading  [LOADING, fraction], [WARMING, fraction], then [READY, info] or
                       [FAILED, error class, what, next step]
        of its speed   [PACE, n_streams, n_steps, step_s, n_threads]
        of its memory  [CELLS, used, all]   of the KV cache: each second while they change, and before it sleeps
        of a request   [PLACE, id, place], [BEGUN, id], [TEXT, id, text, n_tokens, reasoning, tokens] without what
                       is usual at its end, [DONE, id, reason, ...], [ERROR, id, message, retryable]
        of the words   [TOKENS, number, ids] or [TOKENS, number, None, FAILED row]
        of a vector    [VECTOR, number, base64 of float32] or [VECTOR, number, None, FAILED row]

The end of the child's input is the order to exit: a parent that died says the same as one that closed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgemed.core.errors import EdgemedError, EngineFailed, ModelRefused, UsageError
from edgemed.core.prompt import PromptPart
from edgemed.engines.base import (
    DoneEvent,
    DrawnToken,
    ErrorEvent,
    Event,
    GenerationRequest,
    PlaceEvent,
    Sampling,
    TextEvent,
    TokenLogprob,
)
from edgemed.engines.step_times import Block

SUBMIT, CANCEL, TOKENIZE, EMBED = "submit", "cancel", "tokenize", "embed"
PIN, FORGET = "pin", "forget"
LOADING, READY, FAILED, TOKENS, VECTOR = "loading", "ready", "failed", "tokens", "vector"
WARMING, PACE, CELLS = "warming", "pace", "cells"
PLACE, BEGUN, TEXT, DONE, ERROR = "p", "b", "t", "d", "e"

_ENCODE = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_ERRORS: dict[str, type[EdgemedError]] = {
    kind.__name__: kind for kind in (EngineFailed, ModelRefused, UsageError, EdgemedError)
}


def encode_line(message: Sequence[Any]) -> bytes:
    """One message as a line; ASCII, so a newline can only be its end."""
    return _ENCODE(message).encode("ascii") + b"\n"


def encode_events(events: Iterable[tuple[str, Event]]) -> bytes:
    """The events of one step as a line."""
    return encode_line([_event_row(request_id, event) for request_id, event in events])


def _event_row(request_id: str, event: Event) -> list[Any]:
    if isinstance(event, TextEvent):
        row = [TEXT, request_id, event.text, event.n_tokens]
        if event.tokens:
            return [*row, event.reasoning, [_drawn_row(token) for token in event.tokens]]
        return [*row, True] if event.reasoning else row
    if isinstance(event, PlaceEvent):
        return [PLACE, request_id, event.place]
    if isinstance(event, ErrorEvent):
        return [ERROR, request_id, event.message, event.retryable]
    times = [event.queue_ms, event.ttft_ms, event.total_ms]
    counts = [event.prompt_tokens, event.completion_tokens]
    return [DONE, request_id, event.reason, *counts, *times, event.reasoning_tokens, event.cached_tokens]


def _drawn_row(token: DrawnToken) -> list[list[Any]]:
    # bytes as the characters of the same numbers: a piece may be half a letter
    return [[one.piece.decode("latin-1"), one.logprob] for one in (token.drawn, *token.likeliest)]


def _drawn_of(row: Sequence[Sequence[Any]]) -> DrawnToken:
    drawn, *likeliest = [TokenLogprob(piece.encode("latin-1"), logprob) for piece, logprob in row]
    return DrawnToken(drawn, tuple(likeliest))


def decode_event(row: Sequence[Any]) -> Event:
    """The event of a PLACE, TEXT, DONE or ERROR row."""
    kind = row[0]
    if kind == TEXT:
        if len(row) < 6:
            return TextEvent(*row[2:])
        _, _, text, n_tokens, reasoning, tokens = row
        return TextEvent(text, n_tokens, reasoning, tuple(_drawn_of(token) for token in tokens))
    if kind == DONE:
        return DoneEvent(*row[2:])
    if kind == PLACE:
        return PlaceEvent(row[2])
    return ErrorEvent(row[2], row[3])


def encode_request(request: GenerationRequest, age_s: float) -> bytes:
    """A request as a line; `age_s` is how long ago it was submitted."""
    said = _unusual(request)
    if "sampling" in said:
        said["sampling"] = _unusual(request.sampling)
    return encode_line([SUBMIT, said, age_s])


def decode_request(row: Sequence[Any]) -> tuple[GenerationRequest, float]:
    """The request of a SUBMIT row, and its age in seconds."""
    _, said, age_s = row
    lists = {name: tuple(said[name]) for name in ("prompt", "stop") if name in said}
    sampling = Sampling(**said.get("sampling", {}))
    return GenerationRequest(**{**said, **lists, "sampling": sampling}), age_s


def _unusual(record: GenerationRequest | Sampling) -> dict[str, Any]:
    """The fields that have another value than their default."""
    usual: Mapping[str, Any] = {
        field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for field in dataclasses.fields(record)
    }
    values = ((name, getattr(record, name)) for name in usual)
    return {name: value for name, value in values if value != usual[name]}


def encode_block(block: Block) -> bytes:
    """Times of decoding steps as a line."""
    return encode_line([[PACE, block.n_streams, block.n_steps, block.step_s, block.n_threads]])


def decode_block(row: Sequence[Any]) -> Block:
    """The block of a PACE row."""
    _, n_streams, n_steps, step_s, n_threads = row
    return Block(n_streams, n_steps, step_s, n_threads)


def encode_parts(number: int, parts: Iterable[PromptPart]) -> bytes:
    """A TOKENIZE line; its answer carries the same number."""
    return encode_line([TOKENIZE, number, [[part.text, part.special] for part in parts]])


def decode_parts(row: Sequence[Any]) -> list[PromptPart]:
    """The parts of a TOKENIZE row."""
    return [PromptPart(text, special) for text, special in row[2]]


def failed_row(error: EdgemedError) -> list[Any]:
    """An error as a FAILED row."""
    kind = type(error).__name__
    return [FAILED, kind if kind in _ERRORS else "EngineFailed", error.what, error.next_step]


def error_of(row: Sequence[Any]) -> EdgemedError:
    """The error of a FAILED row, of the class it had in the child."""
    _, kind, what, next_step = row
    return _ERRORS.get(kind, EngineFailed)(what, next_step=next_step)
