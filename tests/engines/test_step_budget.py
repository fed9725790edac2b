"""How much of a prompt is read beside others: fast enough for the reader, slow enough for those who decode."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemed.engines.base import Event, GenerationRequest, Sampling, TextEvent
from edgemed.engines.scheduler import Chunk, Scheduler
from edgemed.engines.step_budget import StepBudget

N_BATCH = 128


@dataclass
class Machine:
    """Seconds of a step: one for the weights, one for each stream, one for each prompt token, sometimes a delay."""

    step_s: float = 0.010
    stream_s: float = 0.002
    token_s: float = 0.004
    delays: tuple[float, ...] = (0.0,)
    _turns: itertools.count[int] = field(default_factory=itertools.count)

    def seconds(self, n_decoding: int, n_read: int) -> float:
        delay = self.delays[next(self._turns) % len(self.delays)]
        weights = self.step_s if n_decoding else 0.0  # a batch of prompt hides the weights behind its sums
        return weights + self.stream_s * n_decoding + self.token_s * n_read + delay


class TimedStepEngine:
    """A step engine whose steps take as long as `machine` says, on its own clock; never ends an answer."""

    n_batch = N_BATCH
    context_length = 4096
    closing: tuple[int, ...] | None = None

    def __init__(self, machine: Machine, n_slots: int) -> None:
        self.machine, self.n_slots = machine, n_slots
        self.n_kept, self.adapters = 0, frozenset[str]()
        self.now = 0.0
        self.steps: list[tuple[int, int, float]] = []
        """Streams that decoded, prompt tokens, seconds."""
        self.read: dict[int, list[int]] = {}

    def clock(self) -> float:
        return self.now

    def use_adapter(self, name: str) -> None: ...

    def acquire(self, slot: int, sampling: Sampling) -> None:
        self.read[slot] = []

    def release(self, slot: int) -> None:
        del self.read[slot]

    def decode(self, chunks: Sequence[Chunk]) -> list[int]:
        decoding = [chunk for chunk in chunks if chunk.wants_token and len(chunk.tokens) == 1 and chunk.position]
        n_read = sum(len(chunk.tokens) for chunk in chunks) - len(decoding)
        seconds = self.machine.seconds(len(decoding), n_read)
        for chunk in chunks:
            assert chunk.position == len(self.read[chunk.slot])
            self.read[chunk.slot] += chunk.tokens
        self.now += seconds
        self.steps.append((len(decoding), n_read, seconds))
        return [1 for chunk in chunks if chunk.wants_token]

    def piece(self, token: int) -> bytes | None:
        return b"a"


def reading(machine: Machine, n_streams: int, n_prompt: int = 2000) -> TimedStepEngine:
    """An engine that has read a long prompt beside streams that had decoded for a while; only those steps are kept."""
    engine = TimedStepEngine(machine, n_streams + 1)
    scheduler = Scheduler(engine, engine.clock)
    for number in range(n_streams):
        scheduler.submit(GenerationRequest(str(number), (5,) * 40, 4000))
    for _ in range(60):
        scheduler.admit()
        scheduler.step()
    engine.steps.clear()
    scheduler.submit(GenerationRequest("long", tuple(range(n_prompt)), 1))
    while scheduler.n_running + scheduler.n_waiting > n_streams:
        scheduler.admit()
        scheduler.step()
    return engine


@pytest.mark.parametrize("n_streams", [1, 3, 7])
@pytest.mark.parametrize("token_s", [0.0005, 0.002, 0.006])
def test_others_wait_less_than_three_times_as_long_and_the_reading_keeps_its_pace(
    n_streams: int, token_s: float
) -> None:
    machine = Machine(token_s=token_s)
    engine = reading(machine, n_streams)
    usual_s = machine.seconds(n_streams, 0)
    steps = sorted(seconds for _, _, seconds in engine.steps)
    assert steps[int(0.95 * len(steps))] < 3 * usual_s
    assert 2000 / sum(steps) > 0.55 / token_s
    assert all(n_decoding == n_streams for n_decoding, _, _ in engine.steps)


def test_while_nobody_decodes_the_whole_batch_is_read() -> None:
    assert {n_read for _, n_read, _ in reading(Machine(), 0, n_prompt=10 * N_BATCH).steps} == {N_BATCH}


def test_steps_that_something_else_delayed_change_little() -> None:
    calm, disturbed = Machine(), Machine(delays=(0.0, 0.0, 0.0, 0.0, 0.5))
    read = [max(n for _, n, _ in reading(machine, 3).steps[20:]) for machine in (calm, disturbed)]
    assert read[1] == pytest.approx(read[0], rel=0.2)


def test_streams_that_were_never_timed_are_first_timed_alone() -> None:
    budget = StepBudget(N_BATCH)
    budget.note(0, 100, 0.4)
    assert budget.tokens(2) == 0
    budget.note(2, 0, 0.02)
    assert budget.tokens(2) > 0


def test_a_prompt_is_read_on_even_where_a_single_token_takes_too_long() -> None:
    budget = StepBudget(N_BATCH)
    for _ in range(20):
        budget.note(1, 0, 0.01)
        budget.note(1, 4, 10.0)
    assert budget.tokens(1) > 0


def test_a_step_holds_a_whole_number_of_the_engines_rows() -> None:
    budget = StepBudget(N_BATCH)
    budget.note(0, 100, 0.4)
    for n_decoding in range(1, 9):
        budget.note(n_decoding, 0, 0.05)
        assert (n_decoding + budget.tokens(n_decoding)) % 4 == 0


def test_a_short_rest_is_read_at_once() -> None:
    budget = StepBudget(N_BATCH)
    budget.note(0, 100, 10.0)
    budget.note(1, 0, 0.01)
    assert budget.tokens(1, 1, 25) == 25
    assert budget.tokens(1, 1, 2000) < 25


def test_many_who_wait_for_their_first_word_count_more_than_one_who_writes() -> None:
    budget = StepBudget(N_BATCH)
    budget.note(0, 100, 0.6)
    budget.note(1, 0, 0.03)
    assert budget.tokens(1, 1) < 12
    assert budget.tokens(1, 7) > 60


@settings(deadline=None, max_examples=60)
@given(
    prompts=st.lists(st.integers(1, 300), min_size=1, max_size=8),
    n_slots=st.integers(1, 5),
    token_s=st.floats(0, 0.05),
    step_s=st.floats(0, 0.2),
    delays=st.lists(st.floats(0, 1), min_size=1, max_size=5).map(tuple),
    gaps=st.lists(st.integers(0, 12), min_size=8, max_size=8),
)
def test_every_prompt_is_read_in_order_and_every_stream_gets_a_token_every_step(
    prompts: list[int], n_slots: int, token_s: float, step_s: float, delays: tuple[float, ...], gaps: list[int]
) -> None:
    engine = TimedStepEngine(Machine(step_s=step_s, token_s=token_s, delays=delays), n_slots)
    scheduler = Scheduler(engine, engine.clock)
    got: dict[str, int] = {str(number): 0 for number in range(len(prompts))}

    def step() -> None:
        scheduler.admit()
        decoding = {name for name, n in got.items() if 0 < n < 30}
        events: dict[str, list[Event]] = {}
        for name, event in scheduler.step():
            events.setdefault(name, []).append(event)
        for name, heard in events.items():
            got[name] += sum(isinstance(event, TextEvent) for event in heard)
        assert decoding <= set(events)

    for number, (n_prompt, gap) in enumerate(zip(prompts, gaps, strict=False)):
        scheduler.submit(GenerationRequest(str(number), tuple(range(n_prompt)), 30))
        for _ in range(gap):
            step()
    for _ in range(5000):
        if scheduler.idle:
            break
        step()
    assert set(got.values()) == {30}
