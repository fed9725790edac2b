"""Down when something is lost, up when it is there again, and never to and fro: over a simulated clock."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemed.core.units import GIB, MIB
from edgemed.engines.base import EngineConfig
from edgemed.engines.ladder import Ladder, LadderRules, MachineState

PLAN = EngineConfig(model_path=Path("a.gguf"), context_length=4096, n_slots=4, n_gpu_layers=30, devices=("CUDA0",))
LESS = PLAN.model_copy(update={"n_slots": 1, "n_gpu_layers": 20})
RAM_ALONE = EngineConfig(model_path=Path("a.gguf"), context_length=2048)
RULES = LadderRules()
TOTAL = 16 * GIB
RESERVE = int(0.025 * TOTAL)
PLENTY = MachineState(8 * GIB, TOTAL, {"CUDA0": 8 * GIB})
NO_GPU = MachineState(8 * GIB, TOTAL, {})


def ladder(*rungs: EngineConfig) -> Ladder:
    made = Ladder(PLAN, rungs or (LESS, RAM_ALONE))
    made.loaded({"RAM": GIB, "CUDA0": 4 * GIB}, 0.0)
    return made


def free(n_bytes: int) -> MachineState:
    return MachineState(n_bytes, TOTAL)


def test_memory_leads_to_the_next_rung_and_a_lost_device_to_main_memory() -> None:
    one, other = ladder(), ladder()
    assert one.step_down("memory", "why", 100.0)
    assert (one.rung, one.cause, one.reason, one.config) == (1, "memory", "why", LESS)
    assert other.step_down("device", "why", 100.0)
    assert (other.rung, other.config) == (2, RAM_ALONE)


def test_there_is_nothing_below_the_last_rung() -> None:
    last = ladder()
    assert last.step_down("device", "why", 100.0)
    assert not last.step_down("memory", "why", 200.0)
    assert (last.rung, last.has_lower) == (2, False)
    assert not Ladder(PLAN).step_down("memory", "why", 0.0)


def test_a_device_cannot_be_dropped_without_a_rung_that_needs_none() -> None:
    assert not ladder(LESS).can_drop_devices
    assert not ladder(LESS).step_down("device", "why", 100.0)
    assert ladder().can_drop_devices


def test_the_reserve_is_a_share_of_the_machine_and_at_least_128_mib() -> None:
    assert ladder().reserve_bytes(TOTAL) == RESERVE
    assert ladder().reserve_bytes(GIB) == ladder().reserve_bytes(None) == 128 * MIB


def test_low_memory_must_last_and_waits_for_answers_but_not_for_ever() -> None:
    low = free(RESERVE * 3 // 4)
    idle, busy = ladder(), ladder()
    assert [bool(idle.squeezed(low, 100.0 + s, busy=False)) for s in range(5)] == [False, False, False, True, True]
    asked = [bool(busy.squeezed(low, 100.0 + s, busy=True)) for s in range(12)]
    assert asked == [s >= RULES.patience_s for s in range(12)]


def test_very_low_memory_does_not_wait_for_answers() -> None:
    made = ladder()
    asked = [bool(made.squeezed(free(RESERVE // 4), 100.0 + s, busy=True)) for s in range(5)]
    assert asked == [False, False, False, True, True]


def test_why_memory_is_short_is_said_in_numbers() -> None:
    made = ladder()
    for second in range(4):
        why = made.squeezed(free(100 * MIB), 100.0 + second, busy=False)
    assert "100 MiB" in why
    assert "410 MiB" in why


@pytest.mark.parametrize("state", [free(RESERVE), free(8 * GIB), MachineState(None, None)])
def test_enough_memory_or_an_unknown_amount_moves_nothing(state: MachineState) -> None:
    made = ladder()
    assert not any(made.squeezed(state, 100.0 + second, busy=False) for second in range(60))


def test_memory_that_was_low_for_a_moment_is_forgiven() -> None:
    made = ladder()
    for second in range(100):
        state = free(RESERVE * 2) if second % 3 == 2 else free(100 * MIB)
        assert not made.squeezed(state, 100.0 + second, busy=False)


def test_right_after_a_start_memory_is_not_judged() -> None:
    made = ladder()
    assert not any(made.squeezed(free(0), float(second), busy=False) for second in range(int(RULES.grace_s)))


def test_it_climbs_after_the_quiet_time_when_nobody_asks() -> None:
    made = ladder()
    assert not made.climb_due(10_000.0, 1000.0)  # it runs as planned
    made.step_down("memory", "why", 100.0)
    assert not made.climb_due(100.0 + RULES.quiet_s - 1, 1000.0)
    assert not made.climb_due(100.0 + RULES.quiet_s, RULES.idle_s - 1)
    assert made.climb_due(100.0 + RULES.quiet_s, RULES.idle_s)
    assert made.climb(PLENTY, 220.0)
    assert (made.rung, made.cause, made.reason) == (0, None, "")


def test_without_its_resources_no_rung_is_climbed_to_and_the_quiet_time_begins_anew() -> None:
    made = ladder()
    made.step_down("device", "why", 100.0)
    assert not made.climb(NO_GPU, 220.0)
    assert made.rung == 2
    assert not made.climb_due(220.0 + RULES.quiet_s - 1, 100.0)
    assert made.climb_due(220.0 + RULES.quiet_s, 100.0)


@pytest.mark.parametrize(
    ("state", "climbs"),
    [
        (MachineState(8 * GIB, TOTAL, {"CUDA0": 3 * GIB}), False),  # other programs hold the card's memory
        (MachineState(8 * GIB, TOTAL, {"CUDA0": None}), True),  # it does not say how much it has
        (MachineState(8 * GIB, TOTAL, None), True),  # nobody could be asked
        (MachineState(RESERVE, TOTAL, {"CUDA0": 8 * GIB}), False),
        (MachineState(RESERVE * 2, TOTAL, {"CUDA0": 8 * GIB}), True),
    ],
)
def test_what_a_rung_took_before_must_be_free(state: MachineState, climbs: bool) -> None:
    made = ladder(RAM_ALONE)
    made.step_down("device", "why", 100.0)
    made.loaded({"RAM": 5 * GIB}, 110.0)
    assert made.climb(state, 500.0) == climbs


def test_main_memory_that_a_better_rung_takes_more_counts() -> None:
    made = Ladder(RAM_ALONE, [RAM_ALONE.model_copy(update={"context_length": 512})])
    made.loaded({"RAM": 5 * GIB}, 0.0)
    made.step_down("memory", "why", 100.0)
    made.loaded({"RAM": 2 * GIB}, 110.0)
    assert not made.climb(MachineState(3 * GIB, TOTAL), 500.0)
    assert made.climb(MachineState(4 * GIB, TOTAL), 900.0)


def test_a_climb_that_fails_returns_to_the_rung_that_worked_and_waits_twice_as_long() -> None:
    made, now = ladder(), 100.0
    made.step_down("device", "why", now)
    waits = []
    for _ in range(8):
        now += made.quiet_s
        assert made.climb_due(now, 100.0)
        made.climb(PLENTY, now)
        now += 5
        assert made.step_down("memory", "again", now)
        assert made.rung == 2
        waits.append(made.quiet_s)
    assert waits == [240, 480, 960, 1920, 3600, 3600, 3600, 3600]


def test_a_climb_that_holds_is_forgotten() -> None:
    made = ladder()
    made.step_down("memory", "why", 100.0)
    made.climb(PLENTY, 300.0)
    made.step_down("memory", "why", 310.0)
    assert made.quiet_s == 240
    made.climb(PLENTY, 600.0)
    made.proven(600.0 + RULES.proven_s)
    assert made.quiet_s == RULES.quiet_s
    assert made.step_down("memory", "why", 2000.0)
    assert made.rung == 1


_SITUATIONS = st.lists(st.sampled_from(["fine", "squeeze", "memory", "device", "fault", "no device"]), max_size=400)


@settings(deadline=None)
@given(_SITUATIONS, st.integers(1, 30))
def test_however_the_machine_behaves_it_never_flaps(situations: list[str], every_s: int) -> None:
    made, now, moves, climbs = ladder(), 100.0, 0, 0
    for situation in situations:
        now += every_s
        before = made.rung
        if situation in ("memory", "device", "fault"):
            made.step_down(situation, "why", now)  # type: ignore[arg-type]
        elif situation == "squeeze" and made.squeezed(free(0), now, busy=False):
            made.step_down("memory", "why", now)
        elif made.climb_due(now, 100.0):
            climbs += made.climb(NO_GPU if situation == "no device" else PLENTY, now)
        made.proven(now)
        if made.rung != before:
            moves += 1
            made.loaded({}, now)
        assert 0 <= made.rung <= 2
        assert (made.rung == 0) <= (made.cause is None)
    assert climbs <= (now - 100.0) / RULES.quiet_s
    assert moves <= climbs + 2 * (climbs + 1)  # two steps down lead from the plan to the last rung
