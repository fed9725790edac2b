"""Log-probabilities leave with the text they belong to: joined, their pieces are the answer's bytes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgemed.core.errors import UsageError
from edgemed.engines import wire
from edgemed.engines.base import (
    NO_TOKEN,
    DoneEvent,
    DrawnToken,
    ErrorEvent,
    Event,
    GenerationRequest,
    Sampling,
    TextEvent,
    TokenLogprob,
)
from edgemed.engines.scheduler import Chunk, Scheduler

CLOSING = b"\n</think>\n\n"


class PieceEngine:
    """Draws ready pieces; what follows the last one ends the answer."""

    n_slots, n_batch, context_length, n_kept = 1, 8, 512, 0
    adapters = frozenset[str]()

    def __init__(self, pieces: Sequence[bytes], *, reasons: bool = False, refuses: bool = False) -> None:
        self._pieces = [*pieces, CLOSING]
        self._refuses = refuses
        self.closing = (len(pieces),) if reasons else None
        self._drawn = -1
        self.told: list[tuple[int, bool]] = []
        """Of `think`: tokens drawn before, and what it was told."""
        self.grammar = ""

    def use_adapter(self, name: str) -> None: ...

    def acquire(self, slot: int, sampling: Sampling) -> None:
        self._drawn = -1

    def release(self, slot: int) -> None:
        pass

    def bind(self, slot: int, grammar: str) -> None:
        if self._refuses:
            raise UsageError("The engine cannot read it.")
        self.grammar = grammar

    def think(self, slot: int, thinking: bool) -> None:
        self.told.append((self._drawn + 1, thinking))

    def drawn_token(self, slot: int, token: int, n_likeliest: int) -> DrawnToken:
        likeliest = tuple(TokenLogprob(b"x", -1.0 - n) for n in range(n_likeliest))
        return DrawnToken(TokenLogprob(self._pieces[token], -0.5 * token), likeliest)

    def decode(self, chunks: Sequence[Chunk]) -> list[int]:
        if not chunks[0].wants_token:
            return []
        self._drawn += 1
        n_pieces = len(self._pieces) - 1
        return [self._drawn if self._drawn < n_pieces else n_pieces + 1]

    def piece(self, token: int) -> bytes | None:
        return self._pieces[token] if token < len(self._pieces) else None


def events_of(engine: object, request: GenerationRequest) -> list[Event]:
    scheduler = Scheduler(engine, lambda: 0.0)  # type: ignore[arg-type]
    scheduler.submit(request)
    events: list[Event] = []
    while not scheduler.idle:
        scheduler.admit()
        events += [event for _, event in scheduler.step()]
    return events


def asked(**more: object) -> GenerationRequest:
    fields: dict[str, object] = {"top_logprobs": 2, "max_tokens": 400} | more
    return GenerationRequest("r", (400, 400), **fields)  # type: ignore[arg-type]


def answer_of(events: Sequence[Event]) -> tuple[str, bytes]:
    """The answer's text, and the pieces of its tokens."""
    texts = [event for event in events if isinstance(event, TextEvent) and not event.reasoning]
    pieces = [token.drawn.piece for text in texts for token in text.tokens]
    return "".join(text.text for text in texts), b"".join(pieces)


@st.composite
def cut_texts(draw: st.DrawFn) -> list[bytes]:
    """A text of letters of one to four bytes and tags, cut anywhere into pieces, also inside of letters."""
    signs = st.sampled_from(["a", "b", " ", "\n", "é", "剂", "👶", "<think>", "</think>", "<th"])
    data = "".join(draw(st.lists(signs, max_size=25))).encode()
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(data) - 1)), max_size=25)))
    return [data[a:b] for a, b in itertools.pairwise([0, *cuts, len(data)]) if data[a:b]]


@example(pieces=[b"<think>", b"a\xc3", b"\xa9"], stop=(), reasons=True, max_tokens=4, limit=1)
@given(
    pieces=cut_texts(),
    stop=st.lists(st.text("ab é剂", min_size=1, max_size=3), max_size=2).map(tuple),
    reasons=st.booleans(),
    max_tokens=st.integers(1, 30),
    limit=st.none() | st.integers(0, 4),
)
def test_the_pieces_that_leave_are_the_answers_bytes(
    pieces: list[bytes], stop: tuple[str, ...], reasons: bool, max_tokens: int, limit: int | None
) -> None:
    request = asked(stop=stop, max_tokens=max_tokens, reasoning_limit=limit)
    events = events_of(PieceEngine(pieces, reasons=reasons), request)
    text, joined = answer_of(events)
    if "\ufffd" not in text:
        assert joined == text.encode()
    elif not stop:  # the end of a thinking may cut a letter in two: its rest is no UTF-8
        assert joined.decode(errors="replace") == text
    plain = events_of(PieceEngine(pieces, reasons=reasons), replace(request, top_logprobs=None))
    assert answer_of(plain) == (text, b"")
    assert plain[-1] == events[-1]


def test_a_token_leaves_with_the_text_that_holds_its_last_byte() -> None:
    pieces = ["剂".encode()[:2], "剂".encode()[2:] + b"a", b"b", b"STO", b"no"]
    events = events_of(PieceEngine(pieces), asked(stop=("STOP",)))
    texts = [event for event in events if isinstance(event, TextEvent)]
    assert [(e.text, [t.drawn.piece for t in e.tokens]) for e in texts] == [
        ("剂a", pieces[:2]),
        ("b", [b"b"]),
        ("STOno", [b"STO", b"no"]),
    ]
    assert [token.drawn.logprob for token in texts[0].tokens] == [0.0, -0.5]
    assert [one.logprob for one in texts[0].tokens[0].likeliest] == [-1.0, -2.0]


def test_a_stop_strings_tokens_never_leave_and_one_that_it_cuts_leaves_cut() -> None:
    text, joined = answer_of(events_of(PieceEngine([b"dose", b"s EN", b"D ", b"more"]), asked(stop=("END",))))
    assert (text, joined) == ("doses ", b"doses ")


def test_thinking_has_no_log_probabilities() -> None:
    events = events_of(PieceEngine([b"<think>", b"hm", b"</think>", b"\n\n", b"so"], reasons=True), asked())
    thoughts = [event for event in events if isinstance(event, TextEvent) and event.reasoning]
    assert [(event.text, event.tokens) for event in thoughts] == [("hm", ())]
    assert answer_of(events) == ("so", b"so")


def test_tokens_cross_the_wire_with_every_byte() -> None:
    event = TextEvent("a", 1, tokens=(DrawnToken(TokenLogprob(b"\xff\x00a", -0.25), (TokenLogprob(b"b", -9.0),)),))
    (row,) = json.loads(wire.encode_events([("r", event)]))
    assert wire.decode_event(row) == event


def test_a_grammar_that_cannot_be_read_ends_its_own_request() -> None:
    events = events_of(PieceEngine([b"a"], refuses=True), asked(grammar="root ::= ("))
    assert events == [ErrorEvent("The engine cannot read it.", retryable=False)]


def test_a_grammar_that_allows_no_token_ends_the_answer_with_an_error() -> None:
    engine = PieceEngine([b"a", b"b"])
    engine.decode = lambda chunks: [NO_TOKEN]  # type: ignore[method-assign]
    (event,) = events_of(engine, asked(grammar='root ::= "a"'))
    assert isinstance(event, ErrorEvent)
    assert not event.retryable
    assert "no word that fits" in event.message


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(presence_penalty=1.0)])
def test_the_engine_is_told_when_thinking_ends(sampling: Sampling) -> None:
    grammar = "" if sampling.presence_penalty else 'root ::= "so"'
    engine = PieceEngine([b"<think>", b"hm", b"</think>", b"so"], reasons=True)
    events_of(engine, asked(grammar=grammar, sampling=sampling))
    assert engine.told == [(1, True), (3, False)]
    assert engine.grammar == grammar


def test_thinking_ends_for_the_engine_behind_the_tokens_that_end_it_from_outside() -> None:
    engine = PieceEngine([b"<think>", b"hm", b"hm", b"hm", b"so"], reasons=True)
    engine.closing = (2, 5, 2)  # a word, the tag, a word
    events = events_of(engine, asked(grammar='root ::= "so"', reasoning_limit=1))
    assert engine.told == [(1, True), (5, False)]
    assert isinstance(events[-1], DoneEvent)


def test_a_prompt_that_opens_the_thinking_is_told_before_the_first_token() -> None:
    engine = PieceEngine([b"hm", b"</think>", b"so", b"<think>"], reasons=True)
    events_of(engine, GenerationRequest("r", (3,), 20, grammar='root ::= "so"'))
    assert engine.told == [(0, True), (2, False)]


def test_an_engine_that_does_not_reason_is_told_nothing() -> None:
    engine = PieceEngine([b"<think>", b"so"])
    events_of(engine, asked(grammar='root ::= "so"'))
    assert engine.told == []
