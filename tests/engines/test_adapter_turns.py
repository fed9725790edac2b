"""One adapter's requests to a step, and nobody starves."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemed.engines.adapter_turns import TURN_STEPS, AdapterTurns
from edgemed.engines.base import DoneEvent, ErrorEvent, GenerationRequest, TextEvent
from edgemed.engines.scheduler import Chunk, Scheduler

NAMES = ("", "heart", "skin", "child")


@given(st.lists(st.tuples(st.sets(st.sampled_from(NAMES), min_size=1), st.booleans()), min_size=1, max_size=200))
def test_whoever_has_work_waits_for_one_turn_of_each_other_at_most(plan: list[tuple[set[str], bool]]) -> None:
    turns, waited = AdapterTurns(), dict.fromkeys(NAMES, 0)
    for working, reads in plan:
        chosen = turns.next(sorted(working))
        assert chosen in working
        turns.stepped(only_read=reads)
        for name in NAMES:
            waited[name] = waited[name] + 1 if name in working and name != chosen else 0
            assert waited[name] <= (len(NAMES) - 1) * TURN_STEPS


def test_a_turn_goes_on_while_nobody_else_has_work() -> None:
    turns = AdapterTurns(turn_steps=2)
    order = []
    for step in range(10):
        order.append(turns.next(["skin"] if step < 6 else ["skin", "heart"]))
        turns.stepped(only_read=False)
    assert order == ["skin"] * 6 + ["heart", "heart", "skin", "skin"]


def test_one_chunk_of_a_prompt_ends_a_turn() -> None:
    turns = AdapterTurns(turn_steps=3)
    order = []
    for _ in range(8):
        order.append(turns.next(["long", "writes"]))
        turns.stepped(only_read=order[-1] == "long")
    assert order == ["long", "writes", "writes", "writes", "long", "writes", "writes", "writes"]


class OneAdapterAStep:
    """A step engine whose tokens depend on the adapter, and that knows which slot belongs to whom."""

    n_slots, n_batch, context_length, n_kept = 4, 8, 200, 0
    closing = None
    adapters = frozenset(NAMES[1:])

    def __init__(self) -> None:
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
    engine = OneAdapterAStep()
    scheduler = Scheduler(engine, lambda: 0.0)
    scheduler.submit(GenerationRequest("writes", (1,), 100, adapter="heart"))
    scheduler.admit()
    scheduler.step()
    scheduler.submit(GenerationRequest("reads", (1,) * 160, 5, adapter="skin"))
    longest = pause = 0
    while "writes" in scheduler._running:
        scheduler.admit()
        scheduler.step()
        pause = pause + 1 if engine.steps[-1] == "skin" else 0
        longest = max(longest, pause)
    assert engine.steps.count("skin") > 12
    # One chunk at a time while the prompt is read; a turn of writing afterwards.
    assert longest <= TURN_STEPS
    reading = engine.steps[: engine.steps.index("skin") + 3 * (TURN_STEPS + 1)]
    assert "skin,skin" not in ",".join(reading)


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
