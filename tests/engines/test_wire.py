"""What the parent says is what the child hears, and back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemed.core.errors import EdgemedError, EngineFailed, MissingExtra, ModelRefused
from edgemed.core.prompt import PromptPart
from edgemed.engines import wire
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

_text = st.text(max_size=20)
_count = st.integers(0, 10**6)
_ms = st.floats(0, 1e9)
_logprobs = st.builds(TokenLogprob, st.binary(max_size=4), st.floats(-1e3, 0))
_drawn = st.builds(DrawnToken, _logprobs, st.lists(_logprobs, max_size=2).map(tuple))
_events: st.SearchStrategy[Event] = (
    st.builds(TextEvent, _text, _count, st.booleans(), st.lists(_drawn, max_size=2).map(tuple))
    | st.builds(PlaceEvent, _count)
    | st.builds(ErrorEvent, _text, st.booleans())
    | st.builds(
        DoneEvent,
        st.sampled_from(["stop", "length", "cancelled", "deadline"]),
        _count,
        _count,
        _ms,
        _ms,
        _ms,
        _count,
        _count,
    )
)
_requests = st.builds(
    GenerationRequest,
    id=_text,
    prompt=st.lists(st.integers(0, 200_000), max_size=5).map(tuple),
    max_tokens=_count,
    sampling=st.builds(Sampling, _ms, st.floats(0, 1), _count, st.floats(0, 1), st.integers(0, 2**64)),
    stop=st.lists(_text, max_size=3).map(tuple),
    deadline_s=st.none() | _ms,
    reasoning_limit=st.none() | _count,
    lane=st.sampled_from(["normal", "emergency"]),
    client=_text,
    session=_text,
    grammar=_text,
    top_logprobs=st.none() | _count,
    adapter=_text,
)


@given(_count, _count, _ms, _count)
def test_times_of_steps_survive_the_pipe(n_streams: int, n_steps: int, step_s: float, n_threads: int) -> None:
    (row,) = json.loads(wire.encode_block(Block(n_streams, n_steps, step_s, n_threads, cores=1.0)))
    assert wire.decode_block(row) == Block(n_streams, n_steps, step_s, n_threads)


@given(st.lists(st.tuples(_text, _events), max_size=4))
def test_events_survive_the_pipe(events: list[tuple[str, Event]]) -> None:
    line = wire.encode_events(events)
    assert line.count(b"\n") == 1
    assert [(row[1], wire.decode_event(row)) for row in json.loads(line)] == events


@given(_requests, _ms)
def test_requests_survive_the_pipe(request: GenerationRequest, age_s: float) -> None:
    assert wire.decode_request(json.loads(wire.encode_request(request, age_s))) == (request, age_s)


@given(st.lists(st.builds(PromptPart, _text, st.booleans())))
def test_prompt_parts_survive_the_pipe(parts: list[PromptPart]) -> None:
    assert wire.decode_parts(json.loads(wire.encode_parts(7, parts))) == parts


@pytest.mark.parametrize("error", [EngineFailed("a", next_step="b"), ModelRefused("a", next_step="b")])
def test_errors_keep_their_class_and_their_words(error: EdgemedError) -> None:
    back = wire.error_of(json.loads(json.dumps(wire.failed_row(error))))
    assert (type(back), back.what, back.next_step) == (type(error), "a", "b")


def test_an_error_the_parent_does_not_know_is_an_engine_failure() -> None:
    back = wire.error_of(wire.failed_row(MissingExtra("x", "y")))
    assert type(back) is EngineFailed
    assert "edgemed[y]" in back.next_step
