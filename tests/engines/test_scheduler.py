"""The batch: no slot leaked, no token lost or doubled, one end for every request."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edgemed.core.errors import EngineFailed
from edgemed.engines.base import DoneEvent, ErrorEvent, Event, GenerationRequest, PlaceEvent, Sampling, TextEvent
from edgemed.engines.scheduler import Chunk, Scheduler

END = 0
LETTERS = "abcdefghij"


def next_token(history: Sequence[int]) -> int:
    """The fake model: a token that depends on every token before it; END about one time in eleven."""
    return (sum((i + 1) * token for i, token in enumerate(history)) * 7 + len(history)) % (len(LETTERS) + 1)


class FakeStepEngine:
    """Checks that it is fed as a real KV cache must be fed, and answers with `next_token`."""

    def __init__(self, n_slots: int, n_batch: int, context_length: int) -> None:
        self.n_slots, self.n_batch, self.context_length = n_slots, n_batch, context_length
        self.closing: tuple[int, ...] | None = None
        self.n_kept = 0
        self.slots: dict[int, list[int]] = {}
        self.n_steps = 0
        self.refuse = False
        self.batches: list[list[tuple[int, int]]] = []

    adapters = frozenset({"heart", "skin"})

    def use_adapter(self, name: str) -> None:
        self.adapter = name

    def acquire(self, slot: int, sampling: Sampling) -> None:
        assert 0 <= slot < self.n_slots
        assert slot not in self.slots
        self.slots[slot] = []

    def release(self, slot: int) -> None:
        del self.slots[slot]

    def decode(self, chunks: Sequence[Chunk]) -> list[int]:
        self.n_steps += 1
        self.batches.append([(chunk.slot, len(chunk.tokens)) for chunk in chunks])
        if self.refuse:
            raise EngineFailed("refused to order")
        assert 0 < sum(len(chunk.tokens) for chunk in chunks) <= self.n_batch
        assert len({chunk.slot for chunk in chunks}) == len(chunks)
        drawn = []
        for chunk in chunks:
            history = self.slots[chunk.slot]
            assert chunk.position == len(history)
            history.extend(chunk.tokens)
            assert len(history) <= self.context_length
            if chunk.wants_token:
                drawn.append(next_token(history))
        return drawn

    def piece(self, token: int) -> bytes | None:
        return None if token == END else LETTERS[token - 1].encode()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def answer_alone(request: GenerationRequest, context_length: int) -> tuple[str, str, int]:
    """The oracle: text, reason and tokens of a request that has the model to itself."""
    history = list(request.prompt)
    text = ""
    limit = min(request.max_tokens, context_length - len(request.prompt))
    n_tokens = 0
    while True:
        token = next_token(history)
        if token == END:
            return text, "stop", n_tokens
        history.append(token)
        text += LETTERS[token - 1]
        n_tokens += 1
        for stop in request.stop:
            if text.endswith(stop):
                return text[: -len(stop)], "stop", n_tokens
        if n_tokens == limit:
            return text, "length", n_tokens


def run(scheduler: Scheduler, most_steps: int = 10_000) -> dict[str, list[Event]]:
    """Every event of every request until nothing is left to do."""
    events: dict[str, list[Event]] = {}
    for _ in range(most_steps):
        if scheduler.idle:
            return events
        scheduler.admit()
        for request_id, event in scheduler.step():
            events.setdefault(request_id, []).append(event)
    raise AssertionError("the batch never became empty")


def text_of(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextEvent))


def done_of(events: Sequence[Event]) -> DoneEvent:
    last = events[-1]
    assert isinstance(last, DoneEvent)
    return last


def request(number: int | str, n_prompt: int = 5, max_tokens: int = 20, **more: object) -> GenerationRequest:
    prompt = tuple((7 * i + len(str(number))) % 11 for i in range(n_prompt))
    return GenerationRequest(str(number), prompt, max_tokens, **more)  # type: ignore[arg-type]


class Batch(RuleBasedStateMachine):
    """Requests come, leave, expire and fail in any order; every promise is checked after every step."""

    @initialize(n_slots=st.integers(1, 4), more=st.integers(0, 8), context_length=st.integers(8, 40))
    def open(self, n_slots: int, more: int, context_length: int) -> None:
        self.engine = FakeStepEngine(n_slots, n_slots + more, context_length)
        self.clock = Clock()
        self.scheduler = Scheduler(self.engine, self.clock)
        self.requests: dict[str, GenerationRequest] = {}
        self.events: dict[str, list[Event]] = {}
        self.cancelled: set[str] = set()
        self.refused: set[str] = set()

    @rule(
        prompt=st.lists(st.integers(0, 10), max_size=45).map(tuple),
        max_tokens=st.integers(0, 30),
        stop=st.lists(st.text(alphabet=LETTERS, min_size=1, max_size=2), max_size=1).map(tuple),
        deadline_s=st.none() | st.floats(0, 20),
    )
    def submit(self, prompt: tuple[int, ...], max_tokens: int, stop: tuple[str, ...], deadline_s: float | None) -> None:
        new = GenerationRequest(str(len(self.requests)), prompt, max_tokens, Sampling(), stop, deadline_s)
        self.requests[new.id] = new
        self.scheduler.submit(new)

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.requests)))
        self.scheduler.cancel(request_id)
        self.cancelled.add(request_id)

    @rule(times=st.integers(1, 6), passed=st.floats(0, 3))
    def step(self, times: int, passed: float) -> None:
        for _ in range(times):
            self.scheduler.admit()
            self._take(self.scheduler.step())
            self.clock.now += passed

    @rule()
    def refuse_a_step(self) -> None:
        self.scheduler.admit()
        running = set(self.scheduler._running)
        self.engine.refuse = True
        try:
            self._take(self.scheduler.step())
        except EngineFailed:
            self.refused |= running
            self.scheduler.fail_running("refused to order")
            self._take(self.scheduler.drain())
        self.engine.refuse = False

    def _take(self, events: list[tuple[str, Event]]) -> None:
        for request_id, event in events:
            before = self.events.setdefault(request_id, [])
            assert all(isinstance(earlier, TextEvent | PlaceEvent) for earlier in before), "an event after the end"
            before.append(event)

    @invariant()
    def slots_are_held_by_running_requests_alone(self) -> None:
        if hasattr(self, "engine"):
            assert len(self.engine.slots) == self.scheduler.n_running <= self.engine.n_slots
            assert len(self.scheduler._free) == self.engine.n_slots - self.scheduler.n_running

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        for request_id, events in run(self.scheduler).items():
            self._take([(request_id, event) for event in events])
        assert not self.engine.slots
        assert self.events.keys() == self.requests.keys()
        for request_id, asked in self.requests.items():
            self._check_end(asked, self.events[request_id])

    def _check_end(self, asked: GenerationRequest, events: list[Event]) -> None:
        last = events[-1]
        if isinstance(last, ErrorEvent):
            impossible = not asked.prompt or len(asked.prompt) >= self.engine.context_length or asked.max_tokens < 1
            assert (asked.id in self.refused) == last.retryable == (not impossible)
            return
        assert isinstance(last, DoneEvent)
        text, reason, n_tokens = answer_alone(asked, self.engine.context_length)
        assert 0 <= last.queue_ms <= last.total_ms
        if last.reason in ("cancelled", "deadline"):
            assert asked.id in self.cancelled or asked.deadline_s is not None
            assert text.startswith(text_of(events)) or asked.stop
        else:
            assert (text_of(events), last.reason, last.completion_tokens) == (text, reason, n_tokens)
        sent = sum(event.n_tokens for event in events if isinstance(event, TextEvent))
        assert sent <= last.completion_tokens
        if not asked.stop:
            assert sent == last.completion_tokens == len(text_of(events))


Batch.TestCase.settings = settings(
    max_examples=120, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestBatch = Batch.TestCase


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_requests_answered_together_say_what_each_says_alone(clock: Clock) -> None:
    engine = FakeStepEngine(3, 8, 64)
    scheduler = Scheduler(engine, clock)
    asked = [request(i, n_prompt=3 + 5 * i, max_tokens=25) for i in range(7)]
    for one in asked:
        scheduler.submit(one)
    events = run(scheduler)
    for one in asked:
        assert text_of(events[one.id]) == answer_alone(one, 64)[0]


def test_a_long_prompt_is_read_in_chunks_beside_decoding_sequences(clock: Clock) -> None:
    engine = FakeStepEngine(2, 8, 100)
    scheduler = Scheduler(engine, clock)
    scheduler.submit(GenerationRequest("short", (2,), 60))
    scheduler.admit()
    scheduler.step()
    scheduler.step()  # what it takes alone is known, and no time at all
    scheduler.submit(GenerationRequest("long", (1,) * 30, 5))
    scheduler.admit()
    engine.batches.clear()
    for _ in range(3):
        scheduler.step()
    assert engine.batches == [[(0, 1), (1, 7)]] * 3


def test_the_oldest_request_begins_first_and_the_others_wait(clock: Clock) -> None:
    scheduler = Scheduler(FakeStepEngine(1, 4, 64), clock)
    for name in ("first", "second", "third"):
        scheduler.submit(request(name))
    assert scheduler.admit() == ["first"]
    assert (scheduler.n_running, scheduler.n_waiting) == (1, 2)
    scheduler.cancel("first")
    assert scheduler.admit() == ["second"]


def test_a_request_past_its_deadline_ends_while_it_waits(clock: Clock) -> None:
    engine = FakeStepEngine(1, 4, 64)
    scheduler = Scheduler(engine, clock)
    scheduler.submit(GenerationRequest("running", (2,), 60))
    scheduler.submit(GenerationRequest("late", (3,), 60, deadline_s=5.0))
    scheduler.admit()
    scheduler.step()
    clock.now = 5.0
    events = dict(scheduler.step())
    done = events["late"]
    assert isinstance(done, DoneEvent)
    assert (done.reason, done.completion_tokens, done.queue_ms) == ("deadline", 0, 5000.0)
    assert scheduler.n_running == 1


def test_the_deadline_counts_from_submission_and_not_from_arrival(clock: Clock) -> None:
    clock.now = 100.0
    scheduler = Scheduler(FakeStepEngine(1, 4, 64), clock)
    scheduler.submit(GenerationRequest("old", (2,), 9, deadline_s=30.0), submitted=60.0)
    assert scheduler.admit() == []
    assert done_of([event for _, event in scheduler.step()]).reason == "deadline"


@pytest.mark.parametrize(
    ("n_prompt", "max_tokens", "words"),
    [(64, 5, "The prompt has 64 tokens"), (0, 5, "holds no token"), (3, 0, "max_tokens is 0")],
)
def test_a_request_that_cannot_run_is_refused_with_the_numbers(
    clock: Clock, n_prompt: int, max_tokens: int, words: str
) -> None:
    engine = FakeStepEngine(1, 4, 64)
    scheduler = Scheduler(engine, clock)
    scheduler.submit(request("x", n_prompt=n_prompt, max_tokens=max_tokens))
    ((_, event),) = scheduler.step()
    assert isinstance(event, ErrorEvent)
    assert words in event.message
    assert not event.retryable
    assert engine.n_steps == 0


def test_the_answer_ends_where_the_context_is_full(clock: Clock) -> None:
    endless = FakeStepEngine(1, 4, 12)
    endless.piece = lambda token: b"x"  # type: ignore[method-assign]
    scheduler = Scheduler(endless, clock)
    scheduler.submit(request("x", n_prompt=5, max_tokens=99))
    done = done_of(run(scheduler)["x"])
    assert (done.reason, done.completion_tokens) == ("length", 7)


def test_times_are_measured_from_submission(clock: Clock) -> None:
    scheduler = Scheduler(FakeStepEngine(1, 4, 64), clock)
    scheduler.submit(GenerationRequest("x", (2, 3, 4, 5, 6), 1))
    clock.now = 1.0
    scheduler.admit()
    events = []
    for now in (2.0, 3.0):
        clock.now = now
        events += [event for _, event in scheduler.step()]
    done = done_of(events)
    assert (done.queue_ms, done.ttft_ms, done.total_ms) == (1000.0, 3000.0, 3000.0)
