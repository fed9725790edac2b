"""Plans for models that do not exist yet, on machines that are not here."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgemed.core.errors import PlanInfeasible, UsageError
from edgemed.core.progress import SilentProgress
from edgemed.core.units import GIB
from edgemed.demo import demo_checkpoint_path
from edgemed.engines.memory_breakdown import RAM
from edgemed.hardware.catalog import find_profile
from edgemed.plan.paper_model import SHAPES, is_paper_model, plan_on_paper, recipe_types
from edgemed.plan.record import Plan
from edgemed.plan.situation import PlanRequest

SEVEN = "deepseek-r1-distill-qwen-7b"


def on_paper(model: str, recipe: str | None, machine: str, **request: int) -> Plan:
    return plan_on_paper(model, recipe, find_profile(machine), PlanRequest(**request), SilentProgress())[0]


def test_a_7b_in_the_mix_lies_on_an_8_gb_card_as_a_whole() -> None:
    plan = on_paper(SEVEN, "nf4-int8", "rtx3060ti-8g", n_slots=1)
    assert plan.engine_config.n_gpu_layers == SHAPES[SEVEN].n_layers + 1
    assert plan.needed_bytes("CUDA0") < 5.2 * GIB
    assert plan.model.path == Path(f"{SEVEN}-nf4-int8.gguf")
    assert f"-m {SEVEN}-nf4-int8.gguf" in plan.engine_command
    assert not plan.tried
    assert plan.tokens_per_s.available
    assert plan.tokens_per_s.low is not None
    assert plan.tokens_per_s.low <= 0.71 * plan.tokens_per_s.value


def test_16_bits_of_it_do_not() -> None:
    whole = on_paper(SEVEN, "f16", "rtx3060ti-8g", n_slots=1, max_ram_bytes=64 * GIB)
    assert whole.engine_config.n_gpu_layers < SHAPES[SEVEN].n_layers
    with pytest.raises(PlanInfeasible, match="weights as"):
        on_paper(SEVEN, "f16", "raspberry-pi5-8g")


def test_formats_chosen_with_their_places_are_faster_where_memory_is_short() -> None:
    short = {"n_slots": 1, "max_vram_bytes": 3 * GIB}
    mix = on_paper(SEVEN, "nf4-int8", "rtx3060ti-8g", **short)
    auto = on_paper(SEVEN, "auto", "rtx3060ti-8g", **short)
    assert mix.tokens_per_s.available
    assert auto.tokens_per_s.available
    assert auto.tokens_per_s.value > 1.1 * mix.tokens_per_s.value
    assert "--target-bpw" in auto.notes[-1]


def test_memory_that_is_shared_counts_once() -> None:
    plan = on_paper(SEVEN, "nf4-int8", "macbook-air-m2-8g", n_slots=1, context_length=2048)
    free = {budget.place: budget for budget in plan.budgets}
    together = sum(plan.needed_bytes(place) for place in free)
    assert together <= free[RAM].limit_bytes


def test_an_integrated_gpu_is_planned_for() -> None:
    plan = on_paper("deepseek-r1-distill-qwen-1.5b", "nf4-int8", "jetson-orin-nano-8g", n_slots=1)
    assert plan.engine_config.n_gpu_layers > 0


def test_a_checkpoint_is_planned_for_before_it_is_quantized() -> None:
    small = on_paper(str(demo_checkpoint_path()), "q4_k_m", "raspberry-pi5-8g")
    large = on_paper(str(demo_checkpoint_path()), "f16", "raspberry-pi5-8g")
    assert small.needed_bytes() < large.needed_bytes()
    assert "does not exist yet" in small.notes[-1]


def test_what_cannot_be_planned_for_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no-such"):
        recipe_types(SHAPES[SEVEN], "no-such")
    assert is_paper_model(SEVEN)
    assert is_paper_model(str(tmp_path))
    assert not is_paper_model("demo")
