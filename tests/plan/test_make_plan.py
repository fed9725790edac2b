"""A plan takes what fits, and says in numbers why nothing does."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import machine
from tiny_models import TinyShape, write_tiny_qwen2

from edgemed.core.errors import ModelRefused, PlanInfeasible, UsageError
from edgemed.core.units import GIB, MIB
from edgemed.engines.memory_breakdown import RAM
from edgemed.models.gguf import check_gguf, spec_from_gguf
from edgemed.plan import memory, wishes
from edgemed.plan.make import PlanRequest, make_plan
from edgemed.plan.memory import formula_sizes
from edgemed.plan.projection import ProjectionFailed
from edgemed.plan.record import Plan
from edgemed.plan.wishes import usual_threads

SHAPE = TinyShape(n_layers=8, hidden_size=256, ffn_size=1024, n_heads=4, n_kv_heads=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen2(tmp_path_factory.mktemp("model") / "tiny.gguf", shape=SHAPE)


@pytest.fixture
def by_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans without starting the engine: fast enough for many of them."""

    def unavailable(configs: object) -> list[object]:
        raise ProjectionFailed("switched off for this test")

    monkeypatch.setattr(memory, "project", unavailable)


def needs_of(model: Path, context: int, slots: int) -> int:
    """Bytes of main memory that this request takes."""
    request = PlanRequest(context_length=context, n_slots=slots)
    return make_plan(model, machine(free_ram=64 * GIB, total_ram=64 * GIB), request).needed_bytes(RAM)


def test_a_machine_with_room_gets_the_usual_context_and_slots(model: Path) -> None:
    plan = make_plan(model, machine(physical=4, usable=8))
    config = plan.engine_config
    assert (config.context_length, config.n_slots, config.kv_type) == (4096, 4, "f16")
    assert config.n_threads == 3
    assert config.n_gpu_layers == 0
    assert not plan.reduced
    assert [(p.first_layer, p.last_layer, p.place) for p in plan.placements] == [(0, 7, RAM)]
    assert plan.budgets[0].needed_bytes == sum(need.n_bytes for need in plan.memory)
    assert "-c 16384 -np 4" in plan.engine_command
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_the_models_own_context_is_never_exceeded(tmp_path: Path) -> None:
    small = write_tiny_qwen2(tmp_path / "small.gguf", shape=TinyShape(context_length=768))
    assert make_plan(small, machine()).engine_config.context_length == 768
    with pytest.raises(UsageError, match="768"):
        make_plan(small, machine(), PlanRequest(context_length=1024))


@pytest.mark.usefixtures("by_formula")
def test_slots_go_before_precision_and_precision_before_context(model: Path) -> None:
    candidates = [found for found in make_plan(model, machine()).candidates if found.name.endswith("KV cache")]
    assert [(c.config.n_slots, c.config.context_length, c.config.kv_type) for c in candidates] == [
        *((slots, 4096, "f16") for slots in (4, 2, 1)),
        (1, 4096, "q8_0"),
        *((1, context, kv_type) for context in (2048, 1024, 512) for kv_type in ("f16", "q8_0")),
    ]
    for least in candidates:
        free = least.needed_bytes[RAM] + 256 * MIB  # the reserve of a machine of 1 GiB
        wanted = next(found for found in candidates if found.needed_bytes[RAM] <= least.needed_bytes[RAM])
        config = make_plan(model, machine(free_ram=free, total_ram=GIB)).engine_config
        chosen = (config.n_slots, config.context_length, config.kv_type)
        assert chosen == (wanted.config.n_slots, wanted.config.context_length, wanted.config.kv_type)


def test_a_short_machine_gets_less_and_is_told_so(model: Path) -> None:
    free = needs_of(model, 4096, 1) + 256 * MIB
    plan = make_plan(model, machine(free_ram=free, total_ram=GIB))
    assert plan.engine_config.n_slots == 1
    assert plan.reduced
    assert "RAM is short by" in plan.candidates[0].why
    assert [candidate.chosen for candidate in plan.candidates].count(True) == 1


def test_plan_is_refused_when_kv_cache_does_not_fit(model: Path) -> None:
    limit = needs_of(model, 4096, 4) + 8 * MIB  # the process is measured anew each time
    wish = needs_of(model, 32768, 4)
    request = PlanRequest(context_length=32768, n_slots=4, max_ram_bytes=limit)
    with pytest.raises(PlanInfeasible) as refused:
        make_plan(model, machine(), request)
    assert refused.value.exit_code == 4
    needed, gap = (int(number.replace(",", "")) for number in re.findall(r"([\d,]{9,}) bytes", refused.value.what))
    assert needed == pytest.approx(wish, abs=MIB)  # the process is measured, and differs by some pages
    assert gap == needed - limit
    assert "a smaller context: --context 4096 needs" in refused.value.next_step


def test_fewer_slots_are_offered_when_they_are_enough(model: Path) -> None:
    request = PlanRequest(context_length=16384, n_slots=4, max_ram_bytes=needs_of(model, 16384, 2) + MIB)
    with pytest.raises(PlanInfeasible, match="--slots 2 needs"):
        make_plan(model, machine(), request)


def test_a_smaller_type_is_offered_when_the_weights_are_too_large(model: Path) -> None:
    spec = spec_from_gguf(check_gguf(model))
    few = PlanRequest(context_length=512, n_slots=1)
    whole = make_plan(model, machine(), few)
    sizes = formula_sizes(spec, whole.engine_config)
    request = PlanRequest(context_length=512, n_slots=1, max_ram_bytes=whole.needed_bytes() - sizes.weights // 2)
    with pytest.raises(PlanInfeasible, match=r"weights as q8_0, about .* --recipe q8_0"):
        make_plan(model, machine(), request)


def test_a_hopeless_machine_learns_how_large_a_model_may_be(model: Path) -> None:
    spec = spec_from_gguf(check_gguf(model))
    needed = make_plan(model, machine(), PlanRequest(context_length=512, n_slots=1)).needed_bytes(RAM)
    free = needed - spec.weight_bytes - 3 * MIB // 2 + 256 * MIB  # room for all but the weights, above the reserve
    words = r"this machine offers .*a smaller model: with 1 x 512 tokens its weights may take [\d.]+ .iB; or close"
    with pytest.raises(PlanInfeasible, match=words):
        make_plan(model, machine(free_ram=free, total_ram=GIB))


def test_the_limit_of_the_user_is_called_the_users(model: Path) -> None:
    with pytest.raises(PlanInfeasible, match=r"--max-ram allows 1 MiB.*raise --max-ram: with 1 x 512 .*") as refused:
        make_plan(model, machine(), PlanRequest(max_ram_bytes=MIB))
    assert "its weights may take" not in str(refused.value)
    assert "this machine offers" not in str(refused.value)


@pytest.mark.usefixtures("by_formula")
@settings(deadline=None)  # the first example asks the engine for its devices
@given(free_vram=st.integers(0, 190).map(lambda share: (120 + share) * MIB))
def test_as_many_layers_go_to_the_gpu_as_fit(model: Path, free_vram: int) -> None:
    plan = make_plan(model, machine(free_vram=free_vram))
    config, layers = plan.engine_config, plan.engine_config.n_gpu_layers
    on_gpu = {budget.place: budget for budget in plan.budgets}["CUDA0"]
    assert on_gpu.needed_bytes <= on_gpu.limit_bytes
    spec = spec_from_gguf(check_gguf(model))
    assert 0 <= layers <= spec.n_layers + 1
    if layers <= spec.n_layers:
        assert (config.n_slots, config.kv_type) == (4, "f16")
        more = config.model_copy(update={"n_gpu_layers": layers + 1})
        assert memory.estimate_memory(spec, [more], "CUDA0")[0].bytes_in("CUDA0") > on_gpu.limit_bytes
    assert sum(p.last_layer - p.first_layer + 1 for p in plan.placements) == spec.n_layers


@pytest.mark.usefixtures("by_formula")
def test_the_whole_model_on_the_gpu_is_worth_more_than_slots(model: Path) -> None:
    spec = spec_from_gguf(check_gguf(model))
    two = make_plan(model, machine(free_vram=8 * GIB), PlanRequest(n_slots=2)).needed_bytes("CUDA0")
    config = make_plan(model, machine(free_vram=two + 128 * MIB)).engine_config
    assert (config.n_slots, config.n_gpu_layers) == (2, spec.n_layers + 1)


@pytest.mark.usefixtures("by_formula")
def test_a_gpu_holds_what_main_memory_could_not(model: Path) -> None:
    little = make_plan(model, machine(), PlanRequest(n_slots=1)).needed_bytes() + 256 * MIB
    config = make_plan(model, machine(free_ram=little, total_ram=GIB, free_vram=8 * GIB)).engine_config
    assert config.n_slots == 4


@pytest.mark.usefixtures("by_formula")
def test_no_gpu_is_used_when_the_user_says_so(model: Path) -> None:
    plan = make_plan(model, machine(free_vram=8 * GIB), PlanRequest(max_vram_bytes=0))
    assert plan.engine_config.n_gpu_layers == 0
    assert [budget.place for budget in plan.budgets] == [RAM]


@pytest.mark.usefixtures("by_formula")
def test_a_gpu_carries_a_model_that_main_memory_cannot(model: Path) -> None:
    spec = spec_from_gguf(check_gguf(model))
    free = 96 * MIB + spec.weight_bytes // 2
    request = PlanRequest(context_length=512, n_slots=1, max_ram_bytes=free)
    with pytest.raises(PlanInfeasible):
        make_plan(model, machine(), request)
    plan = make_plan(model, machine(free_vram=8 * GIB), request)
    assert plan.engine_config.n_gpu_layers > 0
    assert plan.needed_bytes(RAM) <= free


def test_a_gpu_of_another_machine_is_planned_by_formula(model: Path) -> None:
    plan = make_plan(model, machine(free_vram=8 * GIB))
    assert plan.engine_config.n_gpu_layers == SHAPE.n_layers + 1
    assert "has no CUDA0" in plan.memory_note or "could not be asked" in plan.memory_note


@pytest.mark.parametrize(("physical", "usable", "threads"), [(1, 1, 1), (2, 2, 1), (2, 4, 1), (8, 16, 7), (8, 2, 1)])
def test_one_core_is_left_to_others(physical: int, usable: int, threads: int) -> None:
    assert usual_threads(machine(physical=physical, usable=usable)) == threads


def test_a_folder_is_told_how_to_become_a_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="edgemed export"):
        make_plan(tmp_path, machine())


def test_a_damaged_file_never_reaches_the_engine(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def must_not_run(*asked: object) -> None:
        raise AssertionError("the engine was asked about a damaged file")

    monkeypatch.setattr(wishes, "estimate_memory", must_not_run)
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(model.read_bytes()[:-5000])
    with pytest.raises(ModelRefused):
        make_plan(broken, machine())


@pytest.mark.parametrize(
    "request_",
    [PlanRequest(n_slots=0), PlanRequest(n_slots=65), *(PlanRequest(context_length=size) for size in (0, 1, 7, 127))],
)
def test_senseless_wishes_are_refused(model: Path, request_: PlanRequest) -> None:
    with pytest.raises(UsageError):
        make_plan(model, machine(), request_)


def test_warnings_of_the_machine_are_passed_on(model: Path) -> None:
    assert make_plan(model, machine(warnings=("mend this",))).notes == ("mend this",)
