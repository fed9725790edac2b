"""One adapter's requests to a step, and nobody starves."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemed.engines.adapter_turns import TURN_STEPS, AdapterTurns
from edgemed.engines.base import DoneEvent, ErrorEvent, GenerationRequest, TextEvent
from edgemed.engines.scheduler import Chunk, Scheduler

SECONDS_A_TOKEN = 0.25
"""Of a prompt; a step that only writes takes 1."""
NAMES = ("", "heart", "skin", "child")


@given(st.lists(st.tuples(st.sets(st.sampled_from(NAMES), min_size=1), st.booleans()), min_size=1, max_size=200))
def test_whoever_has_work_waits_for_one_turn_of_each_other_at_most(plan: list[tuple[set[str], bool]]) -> None:
    turns, waited = AdapterTurns(), dict.fromkeys(NAMES, 0)
    for working, reads in plan:
        chosen = turns.next(sorted(working))
        assert chosen in working
        turns.stepped(read=reads)
        for name in NAMES:
            waited[name] = waited[name] + 1 if name in working and name != chosen else 0
            assert waited[name] <= (len(NAMES) - 1) * TURN_STEPS


def test_a_turn_goes_on_while_nobody_else_has_work() -> None:
    turns = AdapterTurns(turn_steps=2)
    order = []
    for step in range(10):
        order.append(turns.next(["skin"] if step < 6 else ["skin", "heart"]))
        turns.stepped(read=False)
    assert order == ["skin"] * 6 + ["heart", "heart", "skin", "skin"]


def test_one_chunk_of_a_prompt_ends_a_turn_and_whoever_waits_to_read_shortens_the_others() -> None:
    turns = AdapterTurns()
    order = []
    for step in range(9):
        order.append(turns.next(["long", "writes"], {"long"} if step < 7 else set()))
        turns.stepped(read=order[-1] == "long")
    assert order == ["long", "writes", "writes"] * 3


class OneAdapterAStep:
    """A step engine whose tokens depend on the adapter, and that knows which slot belongs to whom."""

    n_slots, n_batch, context_length, n_kept = 4, 64, 400, 0
    closing = None
    adapters = frozenset(NAMES[1:])

    def __init__(self, now: list[float] | None = None) -> None:
        self.now = now or [0.0]
        self.adapter = ""
        self.made_with: dict[int, set[str]] = {}
        self.steps: list[str] = []

    def use_adapter(self, name: str) -> None:
        self.adapter = name

    def acquire(self, slot: int, sampling: object) -> None:
        self.made_with[slot] = set()

    def release(self, slot: int) -> None:
        assert len(self.made_with.pop(slot)) <= 1, "a sequence was read under two adapters"

    def decode(self, chunks: Sequence[Chunk]) -> list[int]:
        self.steps.append(self.adapter)
        n_tokens = sum(len(chunk.tokens) for chunk in chunks)
        self.now[0] += 1.0 if all(chunk.wants_token for chunk in chunks) and n_tokens == len(chunks) else 0.0
        self.now[0] += SECONDS_A_TOKEN * n_tokens if n_tokens > len(chunks) else 0.0
        for chunk in chunks:
            self.made_with[chunk.slot].add(self.adapter)
        return [NAMES.index(self.adapter) for chunk in chunks if chunk.wants_token]

    def piece(self, token: int) -> bytes:
        return str(token).encode()


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.integers(1, 40), st.integers(1, 30)), min_size=1, max_size=12))
def test_every_sequence_is_read_under_its_own_adapter_alone(wanted: list[tuple[str, int, int]]) -> None:
    engine = OneAdapterAStep()
    scheduler = Scheduler(engine, lambda: 0.0)
    for number, (name, n_prompt, max_tokens) in enumerate(wanted):
        scheduler.submit(GenerationRequest(str(number), (1,) * n_prompt, max_tokens, adapter=name))
    texts, ends = dict.fromkeys(range(len(wanted)), ""), []
    while not scheduler.idle:
        scheduler.admit()
        for request_id, event in scheduler.step():
            if isinstance(event, TextEvent):
                texts[int(request_id)] += event.text
            elif isinstance(event, DoneEvent):
                ends.append(int(request_id))
    assert sorted(ends) == list(range(len(wanted)))
    for number, (name, _, max_tokens) in enumerate(wanted):
        assert texts[number] == str(NAMES.index(name)) * max_tokens


def test_a_long_prompt_of_another_adapter_does_not_stop_an_answer() -> None:
    now = [0.0]
    engine = OneAdapterAStep(now)
    scheduler = Scheduler(engine, lambda: now[0])
    scheduler.submit(GenerationRequest("writes", (1,), 150, adapter="heart"))
    for _ in range(5):
        scheduler.admit()
        scheduler.step()
    scheduler.submit(GenerationRequest("reads", (1,) * 160, 5, adapter="skin"))
    began, first, last, longest = now[0], 0.0, now[0], 0.0
    while not scheduler.idle:
        scheduler.admit()
        for name, event in scheduler.step():
            if name == "reads" and isinstance(event, TextEvent):
                first = first or now[0]
            if name == "writes" and isinstance(event, TextEvent):
                longest, last = max(longest, now[0] - last if not first else 0.0), now[0]
    assert 1.0 < longest <= 3.0  # a step of one token takes 1
    assert first - began <= 2.5 * 160 * SECONDS_A_TOKEN  # reading keeps a good part of its speed alone


def test_an_unknown_adapter_ends_the_request_and_asking_again_is_no_use() -> None:
    scheduler = Scheduler(OneAdapterAStep(), lambda: 0.0)
    scheduler.submit(GenerationRequest("1", (1,), 5, adapter="none such"))
    ((name, event),) = scheduler.drain()
    assert name == "1"
    assert isinstance(event, ErrorEvent)
    assert not event.retryable
    assert "none such" in event.message


@pytest.mark.parametrize("n", [1, 4])
def test_requests_of_one_adapter_share_their_steps(n: int) -> None:
    engine = OneAdapterAStep()
    scheduler = Scheduler(engine, lambda: 0.0)
    for number in range(n):
        scheduler.submit(GenerationRequest(str(number), (1,), 20, adapter="skin"))
    while not scheduler.idle:
        scheduler.admit()
        scheduler.step()
    assert len(engine.steps) == 20
