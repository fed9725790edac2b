"""The KV cache is shared where that is allowed, counted to the cell, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest
from cell_engine import END, LETTERS, CellEngine, next_token
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edgemed.core.errors import EngineFailed
from edgemed.engines.base import DoneEvent, ErrorEvent, Event, GenerationRequest, Lane, PlaceEvent, TextEvent
from edgemed.engines.kv_reuse import MOST_PINS, n_common
from edgemed.engines.scheduler import Scheduler

TOKENS = st.integers(1, 3)
"""Few, so that beginnings are often equal."""
PREFIXES = st.lists(TOKENS, min_size=1, max_size=8).map(tuple)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def answer_alone(request: GenerationRequest, context_length: int) -> tuple[str, str]:
    """The oracle: text and reason of a request that has the model to itself and reads everything."""
    history, text = list(request.prompt), ""
    limit = min(request.max_tokens, context_length - len(request.prompt))
    while (token := next_token(history)) != END:
        history.append(token)
        text += LETTERS[token - 1]
        if len(text) == limit:
            return text, "length"
    return text, "stop"


def ask(
    scheduler: Scheduler, name: str, prompt: tuple[int, ...], max_tokens: int = 4, **more: Any
) -> tuple[str, DoneEvent]:
    """A request by itself, until it has ended: its text and its end."""
    scheduler.submit(GenerationRequest(name, prompt, max_tokens, **more))
    return end_of(scheduler, name)


def end_of(scheduler: Scheduler, name: str) -> tuple[str, DoneEvent]:
    text = ""
    for _ in range(1000):
        scheduler.admit()
        for request_id, event in scheduler.step():
            if request_id == name and isinstance(event, TextEvent):
                text += event.text
            elif request_id == name and isinstance(event, DoneEvent):
                return text, event
    raise AssertionError(f"{name} never ended")


def settle(scheduler: Scheduler) -> None:
    """Steps until nothing is to do: pins are read."""
    for _ in range(1000):
        if scheduler.idle:
            return
        scheduler.admit()
        scheduler.step()
    raise AssertionError("never idle")


def long_answer(prompt: tuple[int, ...]) -> tuple[int, ...]:
    """A prompt with this beginning whose answer has at least four tokens."""
    for extra in range(1, 10_000):
        tail = tuple(1 + extra // 3**i % 3 for i in range(8))
        request = GenerationRequest("", prompt + tail, 4)
        if answer_alone(request, 10_000)[1] == "length":
            return prompt + tail
    raise AssertionError


class Cache(RuleBasedStateMachine):
    """Requests of sessions, clients and adapters come, leave and fail; every promise is checked after every step."""

    @initialize(n_slots=st.integers(1, 3), more=st.integers(0, 8), length=st.integers(12, 36), n_kept=st.integers(0, 6))
    def open(self, n_slots: int, more: int, length: int, n_kept: int) -> None:
        self.engine = CellEngine(n_slots, n_slots + more, length, n_kept)
        self.engine.writer_of = self._writer
        self.clock = Clock()
        self.scheduler = Scheduler(self.engine, self.clock)
        self.reuse = self.scheduler._reuse
        self.requests: dict[str, GenerationRequest] = {}
        self.events: dict[str, list[Event]] = {}
        self.begun: set[str] = set()
        self.cancelled: set[str] = set()
        self.failed: set[str] = set()
        self.forgotten: set[str] = set()
        """Ids of requests whose session was forgotten after they came."""
        self.pinned: set[tuple[int, ...]] = set()
        self.places: dict[str, int] = {}
        self.prompt_reads: dict[str, int] = {}

    def _writer(self, slot: int) -> object:
        for request_id, sequence in self.scheduler._running.items():
            if sequence.chunk.slot == slot:
                return request_id
        return None

    @rule(
        beginning=PREFIXES | st.just(()),
        prompt=st.lists(TOKENS, max_size=14).map(tuple),
        max_tokens=st.integers(1, 20),
        session=st.sampled_from(["", "", "x", "y", "z"]),
        adapter=st.sampled_from(["", "", "", "lora"]),
        client=st.sampled_from(["", "a", "b"]),
        lane=st.sampled_from(["normal", "normal", "emergency"]),
        deadline_s=st.none() | st.floats(0, 20),
        follows=st.booleans(),
        data=st.data(),
    )
    def submit(
        self,
        beginning: tuple[int, ...],
        prompt: tuple[int, ...],
        max_tokens: int,
        session: str,
        adapter: str,
        client: str,
        lane: Lane,
        deadline_s: float | None,
        follows: bool,
        data: st.DataObject,
    ) -> None:
        if follows and self.reuse._sessions.get(session):
            beginning = tuple(self.reuse._sessions[session].tokens)  # the next turn of a conversation
        elif self.reuse._pins and follows:
            beginning = data.draw(st.sampled_from(list(self.reuse._pins)))
        new = GenerationRequest(
            str(len(self.requests)),
            beginning + prompt,
            max_tokens,
            deadline_s=deadline_s,
            lane=lane,
            client=client,
            session=session,
            adapter=adapter,
        )
        self.requests[new.id] = new
        self.scheduler.submit(new)

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.requests)))
        self.scheduler.cancel(request_id)
        self.cancelled.add(request_id)

    @rule(prefixes=st.lists(PREFIXES, max_size=4), settled=st.booleans())
    def pin(self, prefixes: list[tuple[int, ...]], settled: bool) -> None:
        self.scheduler.pin(prefixes)
        self.pinned |= set(prefixes)
        if settled and not self.requests:
            settle(self.scheduler)

    @rule(session=st.sampled_from(["x", "y", "z"]))
    def forget(self, session: str) -> None:
        self.scheduler.forget_session(session)
        self.forgotten |= {name for name, request in self.requests.items() if request.session == session}
        for cell in self.engine.cells:
            if cell.writer is not None and self.requests[cell.writer].session == session:  # type: ignore[index]
                running = self.requests.keys() & self.scheduler._running.keys()
                assert cell.writer in running or self._is_pinned(cell.history) or self._runs(session)
        assert session not in self.reuse._sessions

    def _runs(self, session: str) -> bool:
        return any(sequence.request.session == session for sequence in self.scheduler._running.values())

    @rule(times=st.integers(1, 8), passed=st.floats(0, 3))
    def step(self, times: int, passed: float) -> None:
        for _ in range(times):
            self._admit()
            self._take(self.scheduler.step())
            self.clock.now += passed

    @rule()
    def refuse_a_step(self) -> None:
        self._admit()
        running = set(self.scheduler._running)
        self.engine.refuses = True
        try:
            self._take(self.scheduler.step())
        except EngineFailed:
            self.failed |= running
            self.scheduler.fail_running("refused to order")
            assert not self.engine.cells, "something was kept of which nobody knows whether it is right"
            self._take(self.scheduler.drain())
        self.engine.refuses = False

    @precondition(lambda self: len(self.requests) > 3)
    @rule()
    def fail_to_share(self) -> None:
        self.engine.shares = False

    def _admit(self) -> None:
        waiting = list(self.scheduler._waiting)
        begun = self.scheduler.admit()
        self.begun |= set(begun)
        self._take(self.scheduler.drain())
        assert set(begun) <= set(waiting)
        told = {name: self.places.get(name) for name in self.scheduler._waiting}
        assert sorted(told.values()) == list(range(1, len(told) + 1)), told  # type: ignore[type-var]
        if told:
            assert told[self.scheduler._queue.first()] == 1

    def _take(self, events: list[tuple[str, Event]]) -> None:
        for request_id, event in events:
            before = self.events.setdefault(request_id, [])
            assert not any(isinstance(earlier, DoneEvent | ErrorEvent) for earlier in before), "an event after the end"
            if isinstance(event, PlaceEvent):
                assert request_id not in self.begun, "a place after it began"
                self.places[request_id] = event.place
            before.append(event)

    def _is_pinned(self, history: tuple[int, ...]) -> bool:
        return any(prefix[: len(history)] == history for prefix in self.pinned)

    @invariant()
    def the_account_is_exact(self) -> None:
        if hasattr(self, "engine"):
            assert self.reuse.n_cells_used == len(self.engine.cells) <= self.engine.n_cells
            assert len(self.engine.acquired) == self.scheduler.n_running <= self.engine.n_slots

    @invariant()
    def every_sequence_holds_its_own_tokens(self) -> None:
        if not hasattr(self, "engine"):
            return
        for sequence in self.scheduler._running.values():
            held = self.engine.history_of(sequence.chunk.slot)
            assert len(held) == sequence.n_read
            assert held[: len(sequence.request.prompt)] == sequence.request.prompt[: len(held)]
        kept = [*self.reuse._sessions.values(), *(pin.kept for pin in self.reuse._pins.values() if pin.kept)]
        for one in kept:
            assert self.engine.history_of(one.sequence) == tuple(one.tokens)
        used = {number for cell in self.engine.cells for number in cell.sequences if number >= self.engine.n_slots}
        assert used == {one.sequence for one in kept}
        assert len(self.reuse._free) == self.engine.n_kept - len(kept)

    @invariant()
    def no_cell_of_one_is_reachable_by_another(self) -> None:
        if not hasattr(self, "engine"):
            return
        slots = {sequence.chunk.slot: sequence.request for sequence in self.scheduler._running.values()}
        sessions = {one.sequence: (session, one.adapter) for session, one in self.reuse._sessions.items()}
        for cell in self.engine.cells:
            writer = None if cell.writer is None else self.requests[cell.writer]  # type: ignore[index]
            for number in cell.sequences:
                holder = slots.get(number)
                session, its_adapter = (holder.session, holder.adapter) if holder else sessions.get(number, ("", ""))
                assert cell.adapter == its_adapter, "a cell of another adapter"
                own = writer is not None and (writer is holder or (session and session == writer.session))
                assert own or self._is_pinned(cell.history), "a cell of somebody else"
                if number in sessions and not self._is_pinned(cell.history):
                    assert cell.writer not in self.forgotten, "a forgotten session is there again"

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        for _ in range(10_000):
            if self.scheduler.idle:
                break
            self._admit()
            self._take(self.scheduler.step())
            self.the_account_is_exact()
        assert self.scheduler.idle
        assert not self.engine.acquired
        assert self.events.keys() == self.requests.keys()
        for request_id, asked in self.requests.items():
            self._check_end(asked, self.events[request_id])
        for session in ("x", "y", "z"):
            self.scheduler.forget_session(session)
        self.scheduler.pin([])
        assert not self.engine.cells
        assert self.reuse.n_cells_used == 0

    def _check_end(self, asked: GenerationRequest, events: list[Event]) -> None:
        last = events[-1]
        if isinstance(last, ErrorEvent):
            impossible = not asked.prompt or len(asked.prompt) >= self.engine.context_length
            assert (asked.id in self.failed) == last.retryable == (not impossible)
            return
        assert isinstance(last, DoneEvent)
        assert 0 <= last.cached_tokens < len(asked.prompt)
        text, reason = answer_alone(asked, self.engine.context_length)
        said = "".join(event.text for event in events if isinstance(event, TextEvent))
        if last.reason in ("cancelled", "deadline"):
            assert asked.id in self.cancelled or asked.deadline_s is not None
            assert text.startswith(said)
        else:
            assert (said, last.reason, last.completion_tokens) == (text, reason, len(text))


Cache.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestCache = Cache.TestCase


def scheduler_on(
    n_slots: int = 2, length: int = 64, n_kept: int = 8, n_batch: int = 16
) -> tuple[CellEngine, Scheduler]:
    engine = CellEngine(n_slots, n_batch, length, n_kept)
    return engine, Scheduler(engine, Clock())


def test_pins_are_read_while_nothing_is_to_do_and_their_common_beginning_once() -> None:
    engine, scheduler = scheduler_on(length=100, n_batch=40)
    base = (1, 2, 3) * 15
    scheduler.pin([(*base, 1, 1), (*base, 2, 2)])
    assert not scheduler.idle
    settle(scheduler)
    assert engine.n_read == len(engine.cells) == len(base) + 4
    prompt = long_answer((*base, 2, 2))
    _, done = ask(scheduler, "a", prompt)
    assert done.cached_tokens == len(base) + 2
    assert engine.n_read == len(base) + 4 + len(prompt) - done.cached_tokens + done.completion_tokens - 1


def test_somebody_who_asks_while_a_pin_is_read_waits_for_one_chunk() -> None:
    engine, scheduler = scheduler_on(n_slots=1, length=200, n_batch=64)
    scheduler.pin([(1, 2) * 80])
    scheduler.admit()
    scheduler.step()
    assert engine.n_read == 32
    text, done = ask(scheduler, "a", long_answer((3,)))
    assert (len(text), done.cached_tokens) == (4, 0)
    settle(scheduler)
    assert ask(scheduler, "b", long_answer((1, 2) * 80))[1].cached_tokens == 160


def test_the_first_request_that_begins_with_a_pin_reads_it_for_the_others() -> None:
    engine, scheduler = scheduler_on()
    prefix = (1, 2, 3, 1, 2)
    prompt = long_answer(prefix)
    scheduler.submit(GenerationRequest("first", prompt, 4))
    scheduler.pin([prefix])
    scheduler.admit()
    scheduler.pin([prefix, (1, 2)])  # in the middle of it
    assert end_of(scheduler, "first")[1].cached_tokens == 0
    n_read = engine.n_read
    assert ask(scheduler, "second", prompt)[1].cached_tokens == len(prefix)
    assert engine.n_read - n_read == len(prompt) + 3 - len(prefix)


def test_a_prompt_that_is_all_pin_still_reads_its_last_token() -> None:
    _, scheduler = scheduler_on()
    prompt = long_answer((1, 2))
    scheduler.pin([prompt])
    settle(scheduler)
    text, done = ask(scheduler, "a", prompt)
    assert (text, done.cached_tokens) == (answer_alone(GenerationRequest("", prompt, 4), 64)[0], len(prompt) - 1)


def test_the_next_turn_of_a_session_reads_what_is_new() -> None:
    _, scheduler = scheduler_on()
    prompt = long_answer((1, 2, 3))
    text, done = ask(scheduler, "a", prompt, session="s")
    said = tuple(LETTERS.index(letter) + 1 for letter in text)
    following = (*prompt, *said, 2, 2)
    assert ask(scheduler, "b", following, session="s")[1].cached_tokens == len(prompt) + len(said) - 1
    assert done.cached_tokens == 0


@pytest.mark.parametrize("other", [{"session": "t"}, {}, {"session": "s", "adapter": "lora"}])
def test_nobody_else_finds_what_a_session_left(other: dict[str, str]) -> None:
    _, scheduler = scheduler_on()
    prompt = long_answer((1, 2, 3))
    ask(scheduler, "a", prompt, session="s")
    assert ask(scheduler, "b", (*prompt, 1, 1), **other)[1].cached_tokens == 0


def test_a_second_request_of_a_session_that_runs_reads_anew() -> None:
    _, scheduler = scheduler_on()
    prompt = long_answer((1, 2, 3))
    ask(scheduler, "a", prompt, session="s")
    for name in ("b", "c"):
        scheduler.submit(GenerationRequest(name, prompt, 4, session="s"))
    scheduler.admit()
    done = {name: event for name, event in _events_until_idle(scheduler) if isinstance(event, DoneEvent)}
    assert (done["b"].cached_tokens, done["c"].cached_tokens) == (len(prompt) - 1, 0)


def _events_until_idle(scheduler: Scheduler) -> list[tuple[str, Event]]:
    events = []
    while not scheduler.idle:
        scheduler.admit()
        events += scheduler.step()
    return events


def test_pins_are_for_the_model_alone() -> None:
    _, scheduler = scheduler_on()
    prompt = long_answer((1, 2, 3))
    scheduler.pin([(1, 2, 3), (1, 2, 3, prompt[3])])
    settle(scheduler)
    for name in ("a", "b"):
        assert ask(scheduler, name, prompt, adapter="lora")[1].cached_tokens == 0
    assert ask(scheduler, "c", prompt)[1].cached_tokens == 4


@pytest.mark.parametrize("when", ["before", "while it runs"])
def test_a_forgotten_session_leaves_no_cell(when: str) -> None:
    engine, scheduler = scheduler_on()
    prompt = long_answer((1, 2, 3))
    if when == "before":
        ask(scheduler, "a", prompt, session="s")
        assert engine.cells
        scheduler.forget_session("s")
    else:
        scheduler.submit(GenerationRequest("a", prompt, 4, session="s"))
        scheduler.admit()
        scheduler.step()
        scheduler.forget_session("s")
        end_of(scheduler, "a")
    assert not engine.cells
    assert ask(scheduler, "b", prompt, session="s")[1].cached_tokens == 0


def test_sessions_give_way_before_pins_and_the_oldest_first() -> None:
    engine, scheduler = scheduler_on(n_slots=3, length=20, n_batch=40)
    pin = (1, 1, 2, 2)
    scheduler.pin([pin])
    settle(scheduler)
    for name in ("old", "new"):
        ask(scheduler, name, long_answer(()), session=name)
    assert scheduler._reuse.n_cells_used == 4 + 2 * 11
    for name in ("big", "too"):
        scheduler.submit(GenerationRequest(name, (3,) * 18, 2))
    scheduler.admit()
    while scheduler.n_running:
        scheduler.step()
    assert list(scheduler._reuse._sessions) == ["new"]
    assert engine.history_of(next(iter(scheduler._reuse._pins.values())).kept.sequence) == pin  # type: ignore[union-attr]


def test_sessions_hold_no_more_than_half_of_the_cells() -> None:
    engine, scheduler = scheduler_on(n_slots=4, length=20)
    for number in range(12):
        ask(scheduler, str(number), long_answer(()), session=str(number))
        assert len(engine.cells) <= 40
    assert list(scheduler._reuse._sessions) == ["9", "10", "11"]


def test_a_pin_that_had_to_go_is_read_again_when_it_had_been_of_use() -> None:
    engine, scheduler = scheduler_on(n_slots=1, length=24)
    used, unused = (1, 1, 2, 2), (2, 1, 1)
    scheduler.pin([used, unused])
    settle(scheduler)
    ask(scheduler, "a", (*used, 3, 3))
    ask(scheduler, "b", (3,) * 23, 1)
    n_read = engine.n_read
    assert not engine.cells
    settle(scheduler)
    assert engine.n_read == n_read + len(used)


def test_a_cache_that_cannot_be_shared_is_not_and_answers_all_the_same() -> None:
    engine, scheduler = scheduler_on()
    prompt = long_answer((1, 2, 3))
    scheduler.pin([(1, 2)])
    settle(scheduler)
    engine.shares = False
    text, done = ask(scheduler, "a", prompt, session="s")
    assert (len(text), done.cached_tokens) == (4, 0)
    assert not engine.cells
    engine.shares = True
    assert ask(scheduler, "b", prompt, session="s")[1].cached_tokens == 0
    assert scheduler.idle


def test_a_pin_that_cannot_be_read_ahead_is_left_alone() -> None:
    engine, scheduler = scheduler_on()
    scheduler.pin([(1, 2, 3)])
    engine.refuses = True
    settle(scheduler)
    assert engine.n_steps == 1
    engine.refuses = False
    assert ask(scheduler, "a", long_answer((1, 2, 3)))[1].reason == "length"


def test_more_pins_than_may_be_are_left_out_from_the_end() -> None:
    _, scheduler = scheduler_on(n_slots=4, length=500, n_kept=64)
    pins = [(1 + i % 3, 1 + i // 3 % 3, 1 + i // 9 % 3, 1 + i // 27) for i in range(MOST_PINS + 3)]
    scheduler.pin(pins)
    settle(scheduler)
    assert list(scheduler._reuse._pins) == pins[:MOST_PINS]


def test_common_beginnings_are_counted_in_tokens() -> None:
    assert (n_common((1, 2, 3), [1, 2, 4]), n_common((), (1,)), n_common((1, 2), (1, 2, 3))) == (2, 0, 2)
