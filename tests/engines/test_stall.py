"""When an engine is called hung, when its losses are forgiven, and what happens after the machine has slept."""

from __future__ import annotations

from pathlib import Path

import pytest
from child_stand_in import Machine, engine_on, until
from conftest import ask
from hypothesis import given
from hypothesis import strategies as st

from edgemed.core.errors import EngineFailed
from edgemed.core.prompt import PromptPart
from edgemed.engines import wire
from edgemed.engines.base import EngineConfig, GenerationRequest
from edgemed.engines.ladder import Ladder, LadderRules, MachineState
from edgemed.engines.limits import Limits, RestartBudget
from edgemed.engines.sleep import SleepWatch
from edgemed.engines.stall import StallLimit

LIMITS = Limits()
STAYS = LadderRules(quiet_s=3600)


def test_before_a_whole_chunk_was_read_nobody_knows_how_slow_the_machine_is() -> None:
    stall = StallLimit(LIMITS)
    for _ in range(100):
        stall.note_step(0, 0.02)
    stall.note_prompt(0, 127, 128)
    assert stall.limit_s(0) == 120
    stall.note_prompt(0, 128, 128)
    assert stall.limit_s(0) == 10
    assert stall.limit_s(1) == 120, "another rung is another machine"


@given(st.lists(st.floats(0, 500), min_size=1))
def test_a_step_as_slow_as_any_before_is_never_called_hung(steps: list[float]) -> None:
    stall = StallLimit(LIMITS)
    stall.note_prompt(0, 128, 128)
    for step_s in steps:
        if step_s <= stall.limit_s(0):  # else it had been ended
            stall.note_step(0, step_s)
            assert step_s <= stall.limit_s(0)
        assert LIMITS.least_stall_s <= stall.limit_s(0) <= LIMITS.longest_stall_s


def test_a_slow_machine_gets_ten_times_its_slowest_step() -> None:
    stall = StallLimit(LIMITS)
    stall.note_step(0, 30)
    stall.note_prompt(0, 2048, 128)
    assert stall.limit_s(0) == 300
    stall.note_step(0, 301)
    assert stall.limit_s(0) == 300, "the machine stood still; that was no step"


def test_losses_are_forgiven_by_answers_and_not_by_time() -> None:
    budget = RestartBudget(Limits(max_restarts=2))
    for turn in range(10):
        assert budget.pause_after_loss(float(turn)) == Limits().first_pause_s
        for _ in range(3):
            budget.note_answer()
    for turn in range(2):
        assert budget.pause_after_loss(100.0 + turn) is not None
        budget.note_answer()
    assert budget.pause_after_loss(102.0) is None


def test_a_jump_of_the_clock_that_goes_on_is_a_sleep() -> None:
    now = {"awake": 100.0, "always": 500.0}
    watch = SleepWatch(lambda: now["awake"], lambda: now["always"])
    assert watch.slept_s() == 0
    now["awake"] += 3600
    now["always"] += 3601
    assert watch.slept_s() == 0, "clocks differ a little"
    now["awake"] += 5
    now["always"] += 3600
    assert watch.slept_s() == 3595
    assert watch.slept_s() == 0


def begun(machine: Machine, engine: object, name: str = "a") -> object:
    machine.held = True
    answer = ask(engine, GenerationRequest(name, (65,) * 5, 20))  # type: ignore[arg-type]
    until(lambda: engine.health().running)  # type: ignore[attr-defined]
    return answer


def test_cutting_text_into_tokens_does_not_hide_that_steps_hang(endless_model: Path) -> None:
    machine = Machine()
    limits = Limits(first_pause_s=0.005, tick_s=0.01, step_stall_s=0.3)
    with engine_on(machine, endless_model, limits=limits, rules=STAYS) as engine:
        answer = begun(machine, engine)
        child = machine.child
        while len(machine.children) == 1:  # its other thread goes on answering
            child.say([wire.TOKENS, 10**6, [1]])
        assert "no progress" in answer.error().message  # type: ignore[attr-defined]
        machine.held = False
        assert engine.tokenize([PromptPart("a", False)])


def test_a_worker_that_is_killed_again_and_again_between_answers_is_always_replaced(endless_model: Path) -> None:
    machine = Machine()
    limits = Limits(first_pause_s=0.001, longest_pause_s=0.001, tick_s=0.01, max_restarts=2, proven_answers=1)
    with engine_on(machine, endless_model, limits=limits, ladder=()) as engine:
        for turn in range(8):
            assert ask(engine, GenerationRequest(str(turn), (65,) * 5, 3)).done().completion_tokens == 3
            child = machine.child
            child.die("fault")
            until(lambda: machine.child is not child and engine.health().state == "ready")  # noqa: B023


def test_after_too_many_losses_it_rests_and_is_tried_again(endless_model: Path) -> None:
    machine = Machine()
    limits = Limits(first_pause_s=0.001, tick_s=0.01, max_restarts=0, rest_s=0.3)
    with engine_on(machine, endless_model, limits=limits, ladder=()) as engine:
        machine.child.die("fault")
        until(lambda: engine.health().state == "failed")
        with pytest.raises(EngineFailed, match="1 times"):
            ask(engine, GenerationRequest("refused", (65,) * 5, 3))
        until(lambda: engine.health().state == "ready")
        assert ask(engine, GenerationRequest("a", (65,) * 5, 3)).done().completion_tokens == 3
        machine.child.die("fault")
        until(lambda: engine.health().state == "failed")
    assert engine.health().state == "closed"


@pytest.mark.parametrize("comes_back", [True, False])
def test_after_a_sleep_devices_are_looked_at_again(endless_model: Path, comes_back: bool) -> None:
    machine, sleeps = Machine(), [0.0]
    looks: list[int] = []

    def devices() -> dict[str, int | None] | None:
        looks.append(1)
        return machine.devices

    def slept_s() -> float:
        slept, sleeps[0] = sleeps[0], 0.0
        return slept

    with engine_on(machine, endless_model, rules=STAYS, slept_s=slept_s, devices=devices) as engine:
        engine._fallback.note(_block(), 0.0)  # type: ignore[attr-defined]
        assert engine.health().rung == 0
        assert not looks
        if not comes_back:
            machine.devices = {}
        sleeps[0] = 3600.0
        until(lambda: looks)
        if comes_back:
            assert ask(engine, GenerationRequest("a", (65,) * 5, 3)).done().completion_tokens == 3
            assert (engine.health().rung, len(machine.children)) == (0, 1)
        else:
            until(lambda: engine.health().rung == 2 and engine.health().state == "ready")
            assert engine.health().cause == "device"
            assert "CUDA0 did not come back" in engine.health().reason


def _block() -> object:
    from edgemed.engines.step_times import Block

    return Block(1, 10, 0.1, 1)


def test_after_a_sleep_a_lost_device_may_be_climbed_to_at_once() -> None:
    plan = EngineConfig(model_path=Path("m"), n_gpu_layers=9, devices=("CUDA0",))
    ladder = Ladder(plan, [EngineConfig(model_path=Path("m"))])
    ladder.loaded({"RAM": 1, "CUDA0": 1}, 0.0)
    assert ladder.missing(MachineState(None, None, {})) == ("CUDA0",)
    assert ladder.missing(MachineState(None, None, None)) == ()
    assert ladder.missing(MachineState(None, None, {"CUDA0": None})) == ()
    ladder.step_down("device", "gone", 1000.0)
    assert not ladder.climb_due(1001.0, idle_s=60)
    ladder.woke(1001.0)
    assert ladder.climb_due(1001.0, idle_s=60)
