"""An engine that loses memory or its GPU: on a lower rung, back again, and one last event for every request."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from child_stand_in import QUICK, Machine, engine_on, rungs, until
from conftest import Answer, ask

from edgemed.core.errors import EngineFailed, EngineLost, UsageError
from edgemed.core.prompt import PromptPart
from edgemed.core.units import MIB
from edgemed.engines import wire
from edgemed.engines.balance import Balance
from edgemed.engines.base import DoneEvent, EngineInfo, Event, GenerationRequest, PlaceEvent, TextEvent
from edgemed.engines.fallback import Fallback, Loss
from edgemed.engines.ladder import MachineState
from edgemed.engines.limits import Limits
from edgemed.engines.supervisor import EngineProcess
from edgemed.engines.watchdog import PaceRules

STAYS = replace(QUICK, quiet_s=3600)
"""No climb within a test."""


def request(name: str, max_tokens: int = 20, n_prompt: int = 10) -> GenerationRequest:
    return GenerationRequest(name, (65,) * n_prompt, max_tokens)


def begun(machine: Machine, engine: EngineProcess, name: str = "long") -> Answer:
    """An answer in the middle of being written."""
    machine.held, machine.permits = True, 5
    answer = ask(engine, request(name, 80))
    assert isinstance(answer.next(), TextEvent)
    return answer


@pytest.mark.parametrize(
    ("cause", "words", "rung"),
    [
        ("memory", "The engine's process was ended by signal 9 SIGKILL.", 1),
        ("device", "CUDA error: unspecified launch failure", 2),
        ("fault", "terminate called after throwing an instance of 'std::bad_alloc'", 1),
        ("fault", "The engine's process ended with exit code 1.", 0),
    ],
)
def test_a_lost_process_is_followed_by_one_that_can_do_without(
    endless_model: Path, cause: Any, words: str, rung: int
) -> None:
    machine = Machine()
    with engine_on(machine, endless_model, rules=STAYS) as engine:
        running = begun(machine, engine)
        machine.child.die(cause, words)
        machine.held = False
        error = running.error()
        assert error.retryable
        assert words in error.message
        assert ask(engine, request("next")).done().completion_tokens == 20
        health = engine.health()
        assert (health.rung, health.restarts, health.state) == (rung, 1, "ready")
        assert (words in health.reason) == (rung > 0)
        assert engine.info.context_length == rungs(endless_model)[rung].context_length
        assert machine.child.config == rungs(endless_model)[rung]


def test_what_waits_is_served_by_the_next_rung(endless_model: Path) -> None:
    machine = Machine()
    with engine_on(machine, endless_model, rules=STAYS) as engine:
        running = [begun(machine, engine, "a"), ask(engine, request("b", 80))]
        until(lambda: engine.health().running == 2)
        waiting = [ask(engine, request(f"waiting {i}", 10 + i)) for i in range(3)]
        machine.child.die("memory")
        machine.held = False
        assert all(answer.error().retryable for answer in running)
        assert [answer.done().completion_tokens for answer in waiting] == [10, 11, 12]
        assert engine.health().rung == 1


class Watching:
    """Progress that remembers its words."""

    def __init__(self) -> None:
        self.titles: list[str] = []
        self.notes: list[str] = []

    @contextmanager
    def task(self, title: str, total: float, unit: str = "") -> Iterator[Watching]:
        self.titles.append(title)
        yield self

    def note(self, text: str) -> None:
        self.notes.append(text)

    def advance(self, amount: float = 1) -> None: ...
    def describe(self, text: str) -> None: ...


def test_a_start_moves_down_until_a_rung_loads_and_says_why(endless_model: Path) -> None:
    machine = Machine(refuses=lambda config: "cudaMalloc failed: out of memory" if config.n_gpu_layers else "")
    watching = Watching()
    with engine_on(machine, endless_model, rules=STAYS, progress=watching) as engine:
        health = engine.health()
        assert (health.state, health.rung, health.cause, health.restarts) == ("ready", 2, "memory", 0)
        assert ask(engine, request("a")).done().completion_tokens == 20
    assert watching.titles == ["Loading endless.gguf"] * 3
    assert len(watching.notes) == 2
    assert "out of memory" in watching.notes[0]


def test_a_start_without_its_device_goes_to_main_memory_at_once(endless_model: Path) -> None:
    machine = Machine(refuses=lambda config: "The engine has no device CUDA0; it has CPU." if config.devices else "")
    with engine_on(machine, endless_model, rules=STAYS) as engine:
        assert (engine.health().rung, engine.health().cause) == (2, "device")
    assert len(machine.children) == 2


def test_a_start_that_fails_on_every_rung_says_so(endless_model: Path) -> None:
    machine = Machine(refuses=lambda config: f"failed to allocate {config.context_length} tokens")
    with pytest.raises(EngineFailed, match="failed to allocate 100 tokens"):
        with engine_on(machine, endless_model):
            pass
    assert len(machine.children) == 3


def test_an_engine_that_silently_does_without_its_gpu_is_moved_to_what_was_planned_for_it(endless_model: Path) -> None:
    machine = Machine(forgets_devices=True)
    with engine_on(machine, endless_model, rules=STAYS) as engine:
        assert (engine.health().rung, engine.health().cause) == (2, "device")
        assert ask(engine, request("a")).done().completion_tokens == 20


def test_a_hung_gpu_counts_as_lost(endless_model: Path) -> None:
    machine = Machine()
    limits = Limits(first_pause_s=0.005, tick_s=0.01, step_stall_s=0.1)
    with engine_on(machine, endless_model, limits=limits, rules=STAYS) as engine:
        running = begun(machine, engine)
        assert "no progress" in running.error().message
        machine.held = False
        assert ask(engine, request("next")).done().completion_tokens == 20
        assert (engine.health().rung, engine.health().cause) == (2, "device")


def test_an_engine_that_keeps_failing_gets_a_chance_on_every_rung(endless_model: Path) -> None:
    machine = Machine()
    limits = Limits(first_pause_s=0.001, longest_pause_s=0.001, tick_s=0.01, max_restarts=1)
    with engine_on(machine, endless_model, limits=limits, rules=STAYS) as engine:
        for rung in (0, 1, 1, 2, 2):
            running = begun(machine, engine)
            machine.child.die("fault")
            machine.held = False
            running.error()
            until(lambda: engine.health().state == "ready")
            assert engine.health().rung == rung
        running = begun(machine, engine)
        machine.child.die("fault")
        running.error()
        until(lambda: engine.health().state == "failed")


def test_short_memory_moves_it_down_before_it_ends(endless_model: Path) -> None:
    machine = Machine()
    with engine_on(machine, endless_model, rules=STAYS) as engine:
        running = [begun(machine, engine), ask(engine, request("second", 80))]
        until(lambda: engine.health().running == 2)
        fits, long = ask(engine, request("fits")), ask(engine, request("long one", n_prompt=300))
        machine.free_ram = 10 * MIB
        until(lambda: len(machine.children) == 2)
        machine.free_ram, machine.held = 8 << 30, False
        for answer in running:
            error = answer.error()
            assert error.retryable
            assert "10 MiB of memory were free" in error.message
        assert fits.done().completion_tokens == 20
        error = long.error()
        assert (error.retryable, error.too_long) == (False, True)
        assert "300 tokens" in error.message
        assert "200" in error.message
        health = engine.health()
        assert (health.rung, health.cause) == (1, "memory")
        with pytest.raises(UsageError, match=r"300 tokens.*200"):
            ask(engine, request("late", n_prompt=300))


def test_answers_may_end_before_memory_that_is_only_low_moves_it_down(endless_model: Path) -> None:
    machine = Machine()
    with engine_on(machine, endless_model, rules=replace(STAYS, patience_s=3600)) as engine:
        running = begun(machine, engine)
        machine.free_ram = 300 * MIB  # of 410 in reserve
        threading.Event().wait(0.1)
        machine.held = False
        assert running.done().completion_tokens == 80
        until(lambda: engine.health().rung >= 1)


def test_on_the_last_rung_short_memory_changes_nothing(endless_model: Path) -> None:
    machine = Machine()
    with engine_on(machine, endless_model, rules=STAYS) as engine:
        machine.free_ram = 10 * MIB
        until(lambda: engine.health().rung == 2 and engine.health().state == "ready")
        threading.Event().wait(0.1)
        assert ask(engine, request("a")).done().completion_tokens == 20
        assert len(machine.children) == 3


def test_it_climbs_back_when_the_device_is_there_again_and_nobody_asks(endless_model: Path) -> None:
    machine = Machine()
    with engine_on(machine, endless_model) as engine:
        machine.devices = {}
        machine.child.die("device", "vk::Queue::submit: ErrorDeviceLost")
        until(lambda: engine.health().rung == 2 and engine.health().state == "ready")
        running = begun(machine, engine)
        machine.devices = {"CUDA0": 8 << 30}
        threading.Event().wait(0.15)  # three quiet times: somebody is being answered
        assert engine.health().rung == 2
        engine.cancel("long")
        machine.held = False
        assert running.done().reason == "cancelled"
        until(lambda: engine.health().rung == 0 and engine.health().state == "ready")
        assert (engine.health().cause, engine.health().reason) == (None, "")
        assert engine.info.context_length == 400
        assert ask(engine, request("a", n_prompt=300)).done().completion_tokens == 20


def test_a_device_that_stays_away_costs_no_restart(endless_model: Path) -> None:
    machine = Machine()
    with engine_on(machine, endless_model) as engine:
        machine.devices = {}
        machine.child.die("device", "vk::Queue::submit: ErrorDeviceLost")
        until(lambda: engine.health().rung == 2)
        threading.Event().wait(0.3)
        assert len(machine.children) == 2


def test_a_better_rung_that_keeps_failing_is_tried_ever_more_rarely(endless_model: Path) -> None:
    machine = Machine(
        refuses=lambda config: "failed to allocate" if len(machine.children) > 1 and config.devices else ""
    )
    with engine_on(machine, endless_model, rules=replace(QUICK, quiet_s=0.02)) as engine:
        machine.child.die("memory")
        until(lambda: engine.health().rung == 2)  # rung 1 does not load either
        climbs = [3, 5, 7]  # the plan, main memory again, the plan ...
        until(lambda: len(machine.children) > climbs[-1] + 1)
        times = [machine.children[index].began for index in climbs]
        assert all(machine.children[index].config.n_slots == 2 for index in climbs)
        waits = [later - earlier for earlier, later in pairwise(times)]
        assert waits[0] >= 0.04
        assert waits[1] >= 0.08
        assert ask(engine, request("a")).done().completion_tokens == 20


def test_a_move_is_no_question_s_fault(endless_model: Path) -> None:
    machine = Machine()
    with engine_on(machine, endless_model, rules=STAYS) as engine:
        running = [begun(machine, engine), ask(engine, request("second", 80))]
        until(lambda: engine.health().running == 2)
        next_in_line, waiting = (ask(engine, request(name)) for name in ("next", "waiting"))
        machine.free_ram = 10 * MIB
        until(lambda: len(machine.children) == 2)
        machine.free_ram = 8 << 30
        until(lambda: engine.health().running == 1)  # one slot on this rung
        machine.free_ram = 10 * MIB
        until(lambda: len(machine.children) == 3)
        machine.free_ram, machine.held = 8 << 30, False
        assert [answer.error().retryable for answer in (*running, next_in_line)] == [True] * 3
        assert waiting.done().completion_tokens == 20  # it was sent to two processes that ended before it began


def test_nobody_waits_long_for_a_warm_up_after_a_fall(endless_model: Path) -> None:
    plan, *ladder = rungs(endless_model)
    fallback = Fallback(plan, Limits(), Balance(ladder=tuple(ladder), rules=QUICK))
    info = EngineInfo(
        engine="", architecture="", model_name="", context_length=1, n_slots=1, vocab_size=1, chat_template=""
    )
    assert (fallback.orders.warm_up_s, fallback.orders.hides_devices) == (20.0, False)
    fallback.took(info, 0.0)
    fallback.after_loss(Loss(EngineLost("gone"), "fault", loaded=True), 1.0)
    assert fallback.orders.warm_up_s == 0.0  # the same again
    fallback.after_loss(Loss(EngineLost("gone"), "device", loaded=True), 2.0)
    assert (fallback.orders.warm_up_s, fallback.orders.hides_devices) == (5.0, True)
    fallback.took(info, 3.0)
    assert fallback.ladder.climb(MachineState(None, None), 10.0)
    assert fallback.orders.warm_up_s == 20.0
    fallback.after_loss(Loss(EngineLost("gone"), "device", loaded=False), 11.0)
    assert (fallback.ladder.rung, fallback.orders.warm_up_s) == (2, 0.0)


def test_a_start_that_had_to_move_down_is_still_warmed_up_in_full(endless_model: Path) -> None:
    plan, *ladder = rungs(endless_model)
    fallback = Fallback(plan, Limits(), Balance(ladder=tuple(ladder)))
    fallback.after_loss(Loss(EngineLost("gone"), "memory", loaded=False), 1.0)
    assert (fallback.ladder.rung, fallback.orders.warm_up_s) == (1, 20.0)


def test_a_text_is_tokenized_across_a_move(endless_model: Path) -> None:
    machine = Machine()
    with engine_on(machine, endless_model, rules=STAYS) as engine:
        machine.child.die("memory")
        assert engine.tokenize([PromptPart("hello", False)]) == [65] * 5


def test_an_engine_that_slows_down_says_so_and_recovers(endless_model: Path) -> None:
    machine = Machine()
    rules = PaceRules(window_s=5.0)
    with engine_on(machine, endless_model, planned_tokens_per_s=10.0, pace=rules) as engine:
        assert engine.health().pace is None
        for _ in range(6):
            machine.child.say([wire.PACE, 1, 8, 0.4, 3])
        pace = engine.health().pace
        assert pace is not None
        assert (pace.slow, pace.n_threads, pace.expected_tokens_per_s) == (True, 3, 10.0)
        assert pace.tokens_per_s == pytest.approx(2.5)
        for _ in range(12):
            machine.child.say([wire.PACE, 1, 8, 0.1, 4])
        pace = engine.health().pace
        assert pace is not None
        assert not pace.slow


def test_on_a_lower_rung_the_plan_s_figure_is_not_asked_for(endless_model: Path) -> None:
    machine = Machine()
    with engine_on(machine, endless_model, planned_tokens_per_s=10.0, rules=STAYS) as engine:
        machine.child.die("device", "ErrorDeviceLost")
        until(lambda: engine.health().rung == 2 and engine.health().state == "ready")
        machine.child.say([wire.PACE, 1, 8, 1.0, 3])
        pace = engine.health().pace
        assert pace is not None
        assert pace.expected_tokens_per_s is None


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_every_request_has_exactly_one_last_event(endless_model: Path, seed: int) -> None:
    chance, machine = random.Random(seed), Machine()
    ends: dict[str, list[Event]] = {}
    limits = Limits(first_pause_s=0.001, longest_pause_s=0.005, tick_s=0.005, max_restarts=1000)
    rules = replace(QUICK, quiet_s=0.02, longest_quiet_s=0.05, patience_s=0.02)
    with engine_on(machine, endless_model, limits=limits, rules=rules) as engine:
        for number in range(60):
            name = str(number)
            mine = ends.setdefault(name, [])

            def on_event(event: Event, mine: list[Event] = mine) -> None:
                if not isinstance(event, TextEvent | PlaceEvent) or (mine and not isinstance(mine[-1], TextEvent)):
                    mine.append(event)

            try:
                engine.submit(request(name, chance.randint(1, 60), chance.randint(1, 150)), on_event)
            except UsageError:
                mine.append(DoneEvent("stop", 0, 0, 0, 0, 0))  # refused at once: too long for the rung that runs
            happening = chance.random()
            if happening < 0.15:
                machine.child.die(chance.choice(["memory", "device", "fault"]))  # type: ignore[arg-type]
            elif happening < 0.3:
                machine.free_ram = chance.choice([10 * MIB, 300 * MIB])
            elif happening < 0.6:
                machine.free_ram, machine.devices = 8 << 30, {"CUDA0": 8 << 30}
            elif happening < 0.7:
                machine.devices = {}
            elif happening < 0.8:
                engine.cancel(str(chance.randint(0, number)))
            threading.Event().wait(chance.choice([0, 0, 0.002, 0.02]))
        machine.free_ram = 8 << 30
        until(lambda: all(ends.values()))
        assert engine.health().state in ("ready", "restarting")
    assert {len(events) for events in ends.values()} == {1}
