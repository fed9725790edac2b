"""The resource table: medians with their spread, what was planned beside them, and noise that is not passed over."""

from __future__ import annotations

import math
from pathlib import Path
from types import TracebackType

import pytest
from machines import UNKNOWN, machine
from tiny_models import TinyShape, write_tiny_qwen2

from edgemed.core.errors import EngineFailed, UsageError
from edgemed.core.records import Figure, NotAvailable
from edgemed.engines.base import EngineConfig
from edgemed.engines.memory_breakdown import RAM
from edgemed.engines.stopwatch import Loaded, Measurement, StopwatchFailed, Timed
from edgemed.hardware.energy import EnergyMeter
from edgemed.hardware.record import DeviceSpeed, EngineSpeed, FormatSpeed, HardwareProfile
from edgemed.plan import bench, joules, memory
from edgemed.plan.bench import BenchReport, bench_model, plan_from_file
from edgemed.plan.make import make_plan
from edgemed.plan.projection import ProjectionFailed
from edgemed.plan.record import Plan, Workload
from edgemed.plan.store import save_plan
from edgemed.plan.workloads import NamedWorkload, find_workload

STEP_S, PROMPT_S = 0.02, 0.5


class FakeWatch:
    """A stopwatch that was told what it will say."""

    prompts: tuple[float, ...] = (PROMPT_S,)
    """Seconds of each repetition, over and over."""
    waits = 1.0
    """How much longer answers take than their steps."""
    dies = False
    asked: list[Measurement]

    def __init__(self, config: EngineConfig, on_progress: object = None) -> None:
        if self.dies:
            raise StopwatchFailed("the engine's process ended with -9")
        self.loaded = Loaded(seconds=0.1, memory={RAM: (1000, 2000, 3000)}, resident_bytes=5)
        type(self).asked = []

    def __enter__(self) -> FakeWatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def resident_bytes(self) -> int:
        return 9000

    def measure(self, wanted: Measurement, timeout_s: float = 1.0) -> Timed:
        self.asked.append(wanted)
        assert wanted.repetitions == 1
        prompt = self.prompts[len(self.asked) % len(self.prompts)]
        answer = wanted.answer_tokens * STEP_S * self.waits
        return Timed(prompt_s=(prompt,), answer_s=(answer,), step_s=(STEP_S,), cpu_s=(1.0,))


@pytest.fixture(autouse=True)
def watch(monkeypatch: pytest.MonkeyPatch) -> type[FakeWatch]:
    class Watch(FakeWatch):
        pass

    def unavailable(configs: object) -> list[object]:
        raise ProjectionFailed("switched off for this test")

    monkeypatch.setattr(bench, "Stopwatch", Watch)
    monkeypatch.setattr(memory, "project", unavailable)
    monkeypatch.setattr(joules, "cpu_meter", lambda: NotAvailable(reason="no counter here"))
    return Watch


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen2(tmp_path_factory.mktemp("model") / "tiny.gguf", shape=TinyShape(context_length=1024))


@pytest.fixture
def plan(model: Path) -> Plan:
    return make_plan(model, machine())


def tried(plan: Plan) -> Plan:
    """The same as if it had been timed."""
    timed = {
        "ttft_ms": Figure(value=400, unit="ms", basis="measured", low=390, high=410),
        "tokens_per_s": Figure(value=40, unit="tokens/s", basis="measured", low=39, high=41),
    }
    seconds = Figure(value=5.0, unit="s", basis="measured", low=4.9, high=5.1)
    candidates = [one.model_copy(update={"measured_s": seconds}) if one.chosen else one for one in plan.candidates]
    return plan.model_copy(update={"tried": True, "candidates": tuple(candidates), **timed})


def with_speed() -> HardwareProfile:
    """A machine whose speed is known."""

    def known(value: float, unit: str) -> Figure:
        return Figure(value=value, unit=unit, basis="measured", low=value, high=value)

    rates = FormatSpeed(
        format="f32", read=known(1e10, "B/s"), compute_64=known(1e11, "op/s"), compute_512=known(1e11, "op/s")
    )
    processor = DeviceSpeed(
        device="CPU",
        formats=(rates,),
        layer_overhead=known(1e-4, "s"),
        token_overhead=known(1e-3, "s"),
        kv_read=known(1e10, "B/s"),
        attention_compute=UNKNOWN,
        energy=UNKNOWN,
        sustained=UNKNOWN,
    )
    speed = EngineSpeed(
        engine="llama.cpp",
        n_threads=1,
        n_threads_batch=1,
        threads=(),
        devices=(processor,),
        load_average=UNKNOWN,
    )
    return machine().model_copy(update={"speed": speed})


def measure(plan: Plan, *names: str, profile: HardwareProfile | None = None) -> BenchReport:
    """The report of these shipped workloads."""
    return bench_model(plan, [find_workload(name) for name in names or ("question",)], profile or machine())


def known(figure: Figure | NotAvailable) -> Figure:
    assert isinstance(figure, Figure)
    return figure


def test_each_figure_is_the_median_with_lowest_and_highest(plan: Plan, watch: type[FakeWatch]) -> None:
    watch.prompts = (0.5, 0.54, 0.46, 0.52, 0.48)
    (found,) = measure(plan).workloads
    ttft, seconds, rate = (known(one.measured) for one in (found.ttft_ms, found.question_s, found.tokens_per_s))
    assert (ttft.value, ttft.low, ttft.high, ttft.unit) == pytest.approx((500, 460, 540, "ms"))
    assert (seconds.value, seconds.low, seconds.high) == pytest.approx((4.34, 4.30, 4.38))
    assert rate.value == pytest.approx(50)
    assert len(found.prompt_s) == len(found.answer_s) == len(found.step_s) == 5


def test_a_full_prompt_is_read_before_the_first_repetition(plan: Plan, watch: type[FakeWatch]) -> None:
    measure(plan)
    assert [(one.prompt_tokens, one.answer_tokens) for one in watch.asked] == [(512, 1), *[(512, 192)] * 5]


def test_memory_stands_beside_what_was_projected(plan: Plan) -> None:
    report = measure(plan)
    by_part = {one.part: one for one in report.memory.parts}
    assert by_part["weights"].real_bytes == 1000
    assert by_part["kv_cache"].predicted_bytes == sum(one.n_bytes for one in plan.memory if one.part == "kv_cache")
    assert report.memory.resident is not None
    assert report.memory.resident.real_bytes == 9000


def test_a_timed_plan_is_compared_with_its_trial_at_the_same_lengths(plan: Plan) -> None:
    (question, short) = measure(tried(plan), "question", "short").workloads
    assert question.planned_by == "trial"
    assert known(question.ttft_ms.planned).value == 400
    assert question.ttft_ms.difference_percent == pytest.approx(25)
    assert question.tokens_per_s.difference_percent == pytest.approx(25)
    assert question.question_s.difference_percent == pytest.approx(100 * (4.34 / 5 - 1))
    assert short.planned_by == "nothing"
    assert short.question_s.difference_percent is None


def test_other_lengths_are_compared_with_the_profiles_prediction(plan: Plan) -> None:
    (question, short) = measure(tried(plan), "question", "short", profile=with_speed()).workloads
    assert short.planned_by == "prediction"
    seconds, ttft, rate = (known(one.planned) for one in (short.question_s, short.ttft_ms, short.tokens_per_s))
    assert seconds.value == pytest.approx(ttft.value / 1000 + 64 / rate.value)
    assert seconds.low is not None
    assert seconds.low < seconds.value
    assert question.planned_by == "trial"
    assert question.question_s.predicted.available


def test_a_workload_is_cut_to_the_context_and_both_lengths_are_kept(plan: Plan) -> None:
    (found,) = measure(plan, "long-note").workloads
    assert found.asked == Workload(prompt_tokens=2000, answer_tokens=256)
    assert found.timed == Workload(prompt_tokens=768, answer_tokens=256)


def test_repetitions_that_differ_are_marked_as_noisy(plan: Plan, watch: type[FakeWatch]) -> None:
    watch.prompts = (0.5, 0.5, 0.5, 0.5, 0.5, 0.7)
    report = measure(plan)
    assert report.noisy
    assert report.noise == ("question: repetitions spread (first token by 40 %)",)


def test_answers_slower_than_their_steps_tell_of_other_programs(plan: Plan, watch: type[FakeWatch]) -> None:
    watch.waits = 2.5
    report = measure(plan)
    assert report.noise == ("question: answers took 2.5 times their median steps, so others took the machine's time",)


def test_a_calm_machine_is_not_noisy(plan: Plan) -> None:
    report = measure(plan)
    assert not report.noisy
    assert report.noise == ()


def test_energy_that_is_not_counted_says_why(plan: Plan) -> None:
    (found,) = measure(plan).workloads
    assert found.joules_per_token.measured == NotAvailable(reason="processor: no counter here")


def counter(monkeypatch: pytest.MonkeyPatch, *readings: float) -> None:
    """A processor's counter with these readings."""
    left = list(readings)
    monkeypatch.setattr(joules, "cpu_meter", lambda: EnergyMeter("RAPL", lambda: left.pop(0)))


def test_joules_of_a_question_are_shared_by_its_tokens(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    counter(monkeypatch, 0, 192, 192, 384, 384, 960, 960, 1152, 1152, 1344)
    (found,) = measure(plan).workloads
    figure = known(found.joules_per_token.measured)
    assert (figure.value, figure.low, figure.high, figure.unit) == (1, 1, 3, "J/token")
    assert "processor (RAPL)" in figure.note


def test_a_counter_that_wraps_or_breaks_spoils_its_repetition_alone(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter(monkeypatch, 900, 10, 10, math.nan, 0, 192, 192, 384, 384, 576)
    (found,) = measure(plan).workloads
    assert known(found.joules_per_token.measured).value == 1


def test_a_counter_that_stands_still_is_told(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    counter(monkeypatch, *[7.0] * 10)
    (found,) = measure(plan).workloads
    assert not found.joules_per_token.measured.available
    assert "did not rise" in found.joules_per_token.measured.reason


def test_what_is_not_counted_beside_a_counter_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    counter(monkeypatch, 0)
    found = joules.open_joules(EngineConfig(model_path=Path("any"), n_gpu_layers=9), [RAM, "RPC0"])
    assert found.counted
    assert found.note == "counted: processor (RAPL); not counted: RPC0: no energy counter is known for RPC0"


def test_a_counter_that_can_no_longer_be_read_ends_nothing() -> None:
    def broken() -> float:
        raise OSError("gone")

    assert math.isnan(joules.Joules((EnergyMeter("RAPL", broken),), "").read())


def test_an_engine_that_dies_is_an_engine_failure_with_its_last_words(plan: Plan, watch: type[FakeWatch]) -> None:
    watch.dies = True
    with pytest.raises(EngineFailed, match="ended with -9"):
        measure(plan)


def test_the_report_is_a_record(plan: Plan) -> None:
    report = measure(tried(plan), "question", "short")
    assert BenchReport.model_validate_json(report.model_dump_json()) == report


def test_workloads_of_ones_own_keep_their_names(plan: Plan) -> None:
    mine = NamedWorkload(name="ward", about="", workload=Workload(prompt_tokens=10, answer_tokens=4))
    (found,) = bench_model(plan, [mine], machine(), repetitions=7).workloads
    assert (found.name, len(found.prompt_s)) == ("ward", 7)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> HardwareProfile:
    """This machine is the made-up one."""
    profile = machine()
    monkeypatch.setattr(bench, "hardware_now", profile.hardware_id)
    monkeypatch.setattr(bench, "engine_name", profile.engine_name)
    return profile


def test_a_saved_plan_follows_its_model_to_another_folder(
    plan: Plan, model: Path, here: HardwareProfile, tmp_path: Path
) -> None:
    save_plan(plan, tmp_path / "plan.json")
    moved = Path(tmp_path / "moved.gguf")
    moved.write_bytes(model.read_bytes())
    found = plan_from_file(tmp_path / "plan.json", moved)
    assert found.engine_config.model_path == found.model.path == moved
    assert found.engine_config.n_slots == plan.engine_config.n_slots


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hardware_id": "another"}, "another machine"),
        ({"engine": "llama.cpp 0.1"}, r"installed is llama\.cpp"),
    ],
)
def test_a_plan_for_another_machine_or_engine_is_refused(
    plan: Plan, model: Path, here: HardwareProfile, tmp_path: Path, change: dict[str, str], words: str
) -> None:
    save_plan(plan.model_copy(update=change), tmp_path / "plan.json")
    with pytest.raises(UsageError, match=words):
        plan_from_file(tmp_path / "plan.json", model)


def test_a_plan_for_another_model_is_refused(plan: Plan, here: HardwareProfile, tmp_path: Path) -> None:
    save_plan(plan, tmp_path / "plan.json")
    other = write_tiny_qwen2(tmp_path / "other.gguf", shape=TinyShape(n_layers=3))
    with pytest.raises(UsageError, match=r"plan for tiny\.gguf of \d+ bytes; other\.gguf has \d+ bytes"):
        plan_from_file(tmp_path / "plan.json", other)
