"""The fastest way is chosen by the watch, ties go to the plainer one, and what fails is told and not chosen."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import pytest
from machines import machine
from tiny_models import TinyShape, write_tiny_qwen2

from edgemed.core.errors import UsageError
from edgemed.core.progress import SilentProgress
from edgemed.core.units import GIB, MIB
from edgemed.engines.base import EngineConfig
from edgemed.engines.memory_breakdown import RAM
from edgemed.engines.stopwatch import Loaded, Measurement, StopwatchFailed, Timed
from edgemed.models.gguf import check_gguf, spec_from_gguf
from edgemed.plan import memory, situation, trial
from edgemed.plan.advice import advise, sentences
from edgemed.plan.make import PlanRequest, make_plan
from edgemed.plan.projection import ProjectionFailed
from edgemed.plan.record import Workload
from edgemed.plan.rivals import FIT_MARGIN_BYTES, find_rivals, fit_of_llama_cpp
from edgemed.plan.situation import Case, offers
from edgemed.plan.trial import fastest, run_trial
from edgemed.plan.wishes import choose

SHAPE = TinyShape(n_layers=8, hidden_size=256, ffn_size=1024, n_heads=4, n_kv_heads=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen2(tmp_path_factory.mktemp("model") / "tiny.gguf", shape=SHAPE)


@pytest.fixture(autouse=True)
def by_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(configs: object) -> list[object]:
        raise ProjectionFailed("switched off for this test")

    monkeypatch.setattr(memory, "project", unavailable)


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every made-up machine is this one; memory is no part of a machine's identity here."""
    monkeypatch.setattr(situation, "hardware_now", machine().hardware_id)


class FakeWatch:
    """A stopwatch whose times are made up: `step_s` by configuration, threads included."""

    prompts: list[Measurement]

    def __init__(self, config: EngineConfig) -> None:
        if config.n_gpu_layers in self.dies_with:
            raise StopwatchFailed("the engine's process ended with -9")
        self._config = config
        self.loaded = Loaded(seconds=0.1, memory={RAM: (1, 2, 3)}, resident_bytes=5)

    dies_with: tuple[int, ...] = ()

    @staticmethod
    def step_s(config: EngineConfig, threads: int) -> float:
        return 0.01 / threads

    def __enter__(self) -> FakeWatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def resident_bytes(self) -> int:
        return 7

    def measure(self, wanted: Measurement) -> Timed:
        step = self.step_s(self._config, wanted.n_threads or 1)
        return Timed(prompt_s=(0.5, 0.6), answer_s=(1.0, 1.0), step_s=(step, 1.5 * step), cpu_s=(1.0, 1.0))


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> type[FakeWatch]:
    class Watch(FakeWatch):
        pass

    monkeypatch.setattr(trial, "Stopwatch", Watch)
    return Watch


def case_of(model: Path, free_vram: int | None, request: PlanRequest | None = None) -> Case:
    profile, asked = machine(free_vram=free_vram), request or PlanRequest()
    return Case(model, spec_from_gguf(check_gguf(model)), profile, asked, offers(profile, asked))


def test_the_fastest_is_chosen_with_its_threads(model: Path, watch: type[FakeWatch]) -> None:
    plan = make_plan(model, machine(), trial=True)
    assert plan.tried
    assert plan.engine_config.n_threads == 4  # of 3, which leave a core free, and all 4
    (chosen,) = [candidate for candidate in plan.candidates if candidate.chosen]
    assert chosen.why == "the fastest here"
    assert plan.tokens_per_s.available
    assert plan.tokens_per_s.high == pytest.approx(400)
    assert plan.ttft_ms.available
    assert plan.ttft_ms.low == pytest.approx(500)


def test_a_slow_gpu_loses_to_the_processor(
    model: Path, watch: type[FakeWatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "step_s", staticmethod(lambda config, threads: 0.05 if config.n_gpu_layers else 0.01))
    plan = make_plan(model, machine(free_vram=8 * GIB), trial=True)
    assert plan.engine_config.n_gpu_layers == 0
    lost = [
        candidate for candidate in plan.candidates if candidate.config.n_gpu_layers and candidate.measured_s.available
    ]
    assert lost
    assert all("% slower" in candidate.why for candidate in lost)
    words = sentences(advise(plan, machine(free_vram=8 * GIB), PlanRequest()))
    assert ("limits", "CUDA0 was tried and is slower here than the processor alone") in words


def test_the_processor_keeps_its_slots_when_the_gpu_would_have_had_fewer(
    model: Path, watch: type[FakeWatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    two = make_plan(model, machine(free_vram=8 * GIB), PlanRequest(n_slots=2)).needed_bytes("CUDA0")
    monkeypatch.setattr(watch, "step_s", staticmethod(lambda config, threads: 0.05 if config.n_gpu_layers else 0.01))
    plan = make_plan(model, machine(free_vram=two + 128 * MIB), trial=True)
    assert (plan.engine_config.n_gpu_layers, plan.engine_config.n_slots) == (0, 4)


def test_within_the_noise_the_plainer_way_stays(
    model: Path, watch: type[FakeWatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "step_s", staticmethod(lambda config, threads: 0.01 - 1e-5 * config.n_gpu_layers))
    case = case_of(model, 8 * GIB)
    estimates, chosen = choose(case)
    rivals = find_rivals(case, estimates[chosen or 0].config)
    outcomes = run_trial(rivals, Workload(), (1,), SilentProgress())
    assert fastest(outcomes, Workload()) == 0
    assert rivals[0].name == "CPU alone"


def test_what_cannot_be_loaded_is_told_and_not_chosen(
    model: Path, watch: type[FakeWatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "dies_with", (SHAPE.n_layers + 1,))
    plan = make_plan(model, machine(free_vram=8 * GIB), trial=True)
    assert plan.engine_config.n_gpu_layers == 0
    assert any("ended with -9" in candidate.why for candidate in plan.candidates)


def test_when_nothing_can_be_timed_the_plan_is_made_by_memory(
    model: Path, watch: type[FakeWatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "dies_with", (0,))
    plan = make_plan(model, machine(), trial=True)
    assert not plan.tried
    assert not plan.tokens_per_s.available


@pytest.mark.parametrize("free_vram", [200 * MIB, 300 * MIB, 1300 * MIB, 8 * GIB])
def test_every_rival_fits_and_none_stands_twice(model: Path, free_vram: int) -> None:
    case = case_of(model, free_vram)
    estimates, chosen = choose(case)
    rivals = find_rivals(case, estimates[chosen or 0].config)
    assert all(case.fits(rival.estimate) for rival in rivals)
    assert len({rival.config.model_dump_json() for rival in rivals}) == len(rivals)
    assert rivals[0].config.n_gpu_layers == 0


def test_llama_cpps_fit_leaves_its_margin_and_wastes_no_layer(model: Path) -> None:
    case = case_of(model, 1040 * MIB)
    shape = EngineConfig(model_path=model, context_length=1024, n_slots=1)
    found = fit_of_llama_cpp(case, shape)
    assert found is not None
    free = case.offers["CUDA0"].free_bytes - FIT_MARGIN_BYTES
    assert 0 < found.config.n_gpu_layers < SHAPE.n_layers + 1
    assert found.bytes_in("CUDA0") <= free
    more = found.config.model_copy(update={"n_gpu_layers": found.config.n_gpu_layers + 1})
    (estimate,) = memory.estimate_memory(case.spec, [more], "CUDA0")
    assert estimate.bytes_in("CUDA0") > free


def test_a_short_gpu_learns_what_would_free_layers(model: Path) -> None:
    request = PlanRequest(context_length=2048, n_slots=4)
    profile = machine(free_vram=190 * MIB)
    plan = make_plan(model, profile, request)
    assert 0 < plan.engine_config.n_gpu_layers < SHAPE.n_layers
    helps = [line for kind, line in sentences(advise(plan, profile, request)) if kind == "would help"]
    assert any("a q8_0 KV cache frees" in line and "more layer" in line for line in helps)


def test_the_ladder_goes_down_and_ends_on_the_processor(model: Path) -> None:
    plan = make_plan(model, machine(free_vram=8 * GIB))
    assert plan.ladder
    assert plan.engine_config not in plan.ladder
    assert plan.ladder[-1].n_gpu_layers == 0
    cells = [rung.n_slots * rung.context_length for rung in plan.ladder if not rung.n_gpu_layers]
    assert cells == sorted(cells, reverse=True)


def test_a_workload_is_cut_to_the_context() -> None:
    cut = Workload(prompt_tokens=4000, answer_tokens=500).within(512)
    assert (cut.prompt_tokens, cut.answer_tokens) == (384, 128)
    assert Workload().within(4096) == Workload()


def test_a_profile_of_another_machine_is_refused_for_a_trial_and_good_for_a_plan_on_paper(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(situation, "hardware_now", lambda: "another machine")
    with pytest.raises(UsageError, match="--no-trial"):
        make_plan(model, machine(), trial=True)
    assert not make_plan(model, machine()).tried


def test_a_gpu_that_is_not_there_is_no_place(model: Path) -> None:
    with pytest.raises(UsageError, match="no GPU on this machine"):
        make_plan(model, machine(), PlanRequest(max_vram_bytes=GIB))


def test_what_the_engine_took_is_kept_beside_what_was_projected(model: Path, watch: type[FakeWatch]) -> None:
    plan = make_plan(model, machine(), trial=True)
    assert plan.read_back is not None
    (in_ram,) = plan.read_back.places
    assert in_ram.real_bytes == 1 + 2 + 3
    assert in_ram.predicted_bytes == sum(
        need.n_bytes for need in plan.memory if need.part in ("weights", "kv_cache", "compute")
    )


def test_a_slow_gpu_gets_as_little_as_main_memory_allows(
    model: Path, watch: type[FakeWatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "step_s", staticmethod(lambda config, threads: 0.01 * (1 + config.n_gpu_layers)))
    alone = make_plan(model, machine(), PlanRequest(context_length=1024, n_slots=1))
    short = PlanRequest(context_length=1024, n_slots=1, max_ram_bytes=alone.needed_bytes(RAM) - 8 * MIB)
    plan = make_plan(model, machine(free_vram=8 * GIB), short, trial=True)
    chosen = plan.engine_config.n_gpu_layers
    assert 0 < chosen < SHAPE.n_layers
    fewer = plan.engine_config.model_copy(update={"n_gpu_layers": chosen - 1})
    case = case_of(model, 8 * GIB, short)
    (estimate,) = memory.estimate_memory(case.spec, [fewer], "CUDA0")
    assert case.spare(estimate, RAM) < 0
