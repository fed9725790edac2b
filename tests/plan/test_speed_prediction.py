"""What is predicted from a measured machine is what that machine then does, and every part is told one by one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from machines import machine
from made_up_machine import made_up_shop, step_s

from edgemed.core.progress import SilentProgress
from edgemed.core.records import Basis, Figure, MaybeFigure, NotAvailable
from edgemed.engines.base import EngineConfig, TensorPlace
from edgemed.engines.memory_breakdown import RAM
from edgemed.hardware import measure
from edgemed.hardware.catalog import read_catalog
from edgemed.hardware.record import AttentionSpeed, DeviceSpeed, EngineProfile, EngineSpeed, FormatSpeed, Link
from edgemed.hardware.synthetic_model import MIXES, SyntheticShape, write_header_only
from edgemed.models.gguf import check_gguf, spec_from_gguf
from edgemed.models.spec import ModelSpec
from edgemed.plan.speed import CostModel, Placed, SpeedUnknown, predict_speed
from edgemed.plan.weight_placement import layer_places

SHAPES = {
    "0.5B": SyntheticShape(24, 896, 4864, 14, 2, 64, 151936, tied=True),
    "1.1B": SyntheticShape(22, 2048, 5632, 32, 4, 64, 32000, tied=False, architecture="llama"),
    "7B": SyntheticShape(28, 3584, 18944, 28, 4, 128, 152064, tied=False),
    "small": SyntheticShape(4, 256, 512, 4, 2, 64, 1024, tied=True),
}


def model(folder: Path, name: str, formats: str | Mapping[str, str] = "q8_0") -> ModelSpec:
    return spec_from_gguf(check_gguf(write_header_only(folder / f"{name}.gguf", SHAPES[name], formats)))


def config(**fields: object) -> EngineConfig:
    return EngineConfig.model_validate({"model_path": "model.gguf", "n_threads": 2, **fields})


def figure(value: float, basis: Basis = "measured") -> Figure:
    return Figure(value=value, unit="", basis=basis)


def value(maybe: MaybeFigure) -> float:
    assert isinstance(maybe, Figure), maybe
    return maybe.value


def device(name: str, *, pace: float = 1.0, formats: tuple[str, ...] = ("q8_0", "q4_k", "f16")) -> DeviceSpeed:
    speeds = tuple(
        FormatSpeed(
            format=one, read=figure(10e9 * pace), compute_64=figure(50e9 * pace), compute_512=figure(100e9 * pace)
        )
        for one in formats
    )
    unknown = NotAvailable(reason="not measured")
    return DeviceSpeed(
        device=name,
        formats=speeds,
        layer_overhead=figure(1e-5),
        token_overhead=figure(1e-4),
        kv_read=figure(8e9 * pace),
        attention_compute=figure(20e9 * pace),
        energy=unknown,
        sustained=unknown,
    )


def machine_speed(*devices: DeviceSpeed, crossing: float = 1e-4) -> EngineSpeed:
    links = tuple(
        Link(
            device=one.device,
            to_device=figure(1e10),
            from_device=figure(1e10),
            crossing=figure(crossing),
            context_overhead=figure(0),
        )
        for one in devices[1:]
    )
    return EngineSpeed(
        engine="llama.cpp",
        n_threads=2,
        n_threads_batch=2,
        threads=(),
        devices=devices,
        links=links,
        load_average=figure(0),
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> EngineSpeed:
    shop = made_up_shop(tmp_path_factory.mktemp("shop"))
    engine = machine().engine
    assert isinstance(engine, EngineProfile)
    cpu = machine(physical=2, usable=2).cpu
    return measure._Session(shop, engine, cpu, SilentProgress(), quick=False).measure(figure(0), sustained=False)


@pytest.mark.parametrize("formats", ["q8_0", "f16", MIXES["nf4-int8"]])
@pytest.mark.parametrize("name", ["0.5B", "1.1B", "7B"])
@pytest.mark.parametrize("depth", [64, 1024])
def test_decoding_is_what_the_measured_machine_does(
    measured: EngineSpeed, tmp_path: Path, name: str, formats: str | Mapping[str, str], depth: int
) -> None:
    spec = model(tmp_path, name, formats)
    found = predict_speed(spec, config(), measured, depth=depth, prompt_tokens=64)
    assert value(found.tokens_per_s) == pytest.approx(1 / step_s(spec, 1, depth, 1, config(), threads=2), rel=0.04)


@pytest.mark.parametrize("name", ["0.5B", "1.1B", "7B"])
@pytest.mark.parametrize("n_tokens", [64, 128, 512])
def test_prompts_are_what_the_measured_machine_does(
    measured: EngineSpeed, tmp_path: Path, name: str, n_tokens: int
) -> None:
    spec, whole = model(tmp_path, name, MIXES["nf4-int8"]), config()
    steps = [(min(128, n_tokens), start, int(start + 128 >= n_tokens)) for start in range(0, n_tokens, 128)]
    seconds = sum(step_s(spec, size, before, outputs, whole, threads=2) for size, before, outputs in steps)
    found = predict_speed(spec, whole, measured, depth=0, prompt_tokens=n_tokens)
    assert value(found.ttft_s) == pytest.approx(seconds, rel=0.04)


def test_an_interval_surrounds_the_figure_and_paper_speeds_have_a_wide_one(tmp_path: Path) -> None:
    spec = model(tmp_path, "0.5B")
    rate = predict_speed(spec, config(), machine_speed(device("CPU")), depth=64, prompt_tokens=64).tokens_per_s
    assert isinstance(rate, Figure)
    assert (rate.low, rate.high) == (pytest.approx(0.85 * rate.value), pytest.approx(1.15 * rate.value))
    paper = next(one for one in read_catalog().machines if one.gpu is None)
    from edgemed.hardware.paper_speed import speed_of

    wide = predict_speed(spec, config(), speed_of(paper), depth=64, prompt_tokens=64).tokens_per_s
    assert isinstance(wide, Figure)
    assert wide.low is not None
    assert wide.low <= 0.71 * wide.value


def test_noisy_figures_widen_the_interval(tmp_path: Path) -> None:
    shaky = Figure(value=10e9, unit="B/s", basis="measured", low=5e9, high=13e9)
    cpu = device("CPU", formats=("q8_0",))
    formats = (cpu.formats[0].model_copy(update={"read": shaky}),)
    speed = machine_speed(cpu.model_copy(update={"formats": formats}))
    rate = predict_speed(model(tmp_path, "0.5B"), config(), speed, depth=0, prompt_tokens=1).tokens_per_s
    assert isinstance(rate, Figure)
    assert rate.low == pytest.approx(0.6 * rate.value)


def test_a_profile_without_speeds_gives_the_reason(tmp_path: Path) -> None:
    spec = model(tmp_path, "small")
    found = predict_speed(spec, config(), NotAvailable(reason="no engine is installed"), depth=0, prompt_tokens=1)
    assert isinstance(found.tokens_per_s, NotAvailable)
    assert "no engine is installed" in found.tokens_per_s.reason
    on_gpu = config(n_gpu_layers=3)
    found = predict_speed(spec, on_gpu, machine_speed(device("CPU")), depth=0, prompt_tokens=1)
    assert isinstance(found.ttft_s, NotAvailable)
    assert "GPU" in found.ttft_s.reason
    named = config(n_gpu_layers=3, devices=("CUDA3",))
    found = predict_speed(spec, named, machine_speed(device("CPU")), depth=0, prompt_tokens=1)
    assert isinstance(found.ttft_s, NotAvailable)
    assert "CUDA3" in found.ttft_s.reason


def test_a_format_that_was_not_measured_is_taken_as_the_nearest_and_said(tmp_path: Path) -> None:
    spec = model(tmp_path, "small", "q4_0")
    found = predict_speed(spec, config(), machine_speed(device("CPU")), depth=0, prompt_tokens=64)
    assert value(found.tokens_per_s) > 0
    assert "q4_0 is not measured on CPU: taken as q4_k" in found.note
    nothing = machine_speed(device("CPU", formats=()))
    assert isinstance(predict_speed(spec, config(), nothing, depth=0, prompt_tokens=1).ttft_s, NotAvailable)


def test_what_stands_before_slows_down(measured: EngineSpeed, tmp_path: Path) -> None:
    spec = model(tmp_path, "0.5B")
    rates = [
        value(predict_speed(spec, config(), measured, depth=depth, prompt_tokens=1).tokens_per_s)
        for depth in (0, 64, 1024, 8192)
    ]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 1.2 * rates[-1]


def test_fewer_threads_than_the_best_are_slower(measured: EngineSpeed, tmp_path: Path) -> None:
    spec = model(tmp_path, "7B")
    two = predict_speed(spec, config(), measured, depth=64, prompt_tokens=64)
    one = predict_speed(spec, config(n_threads=1), measured, depth=64, prompt_tokens=64)
    assert value(one.tokens_per_s) == pytest.approx(value(two.tokens_per_s) / 2, rel=0.05)
    assert value(one.ttft_s) == pytest.approx(2 * value(two.ttft_s), rel=0.05)


def test_layers_lie_where_the_engine_puts_them(tmp_path: Path) -> None:
    spec = model(tmp_path, "small")
    for n_gpu_layers, layers, head in (
        (0, "cccc", "c"),
        (1, "cccc", "g"),
        (3, "ccgg", "g"),
        (5, "gggg", "g"),
        (99, "gggg", "g"),
    ):
        found = layer_places(spec, config(n_gpu_layers=n_gpu_layers), ("CUDA0",), {})
        short = {RAM: "c", "CUDA0": "g"}
        assert ("".join(short[name] for name in found[0]), short[found[1]]) == (layers, head)


def test_several_gpus_share_layers_in_order(tmp_path: Path) -> None:
    spec = model(tmp_path, "small")
    both = ("CUDA0", "CUDA1")
    shared = layer_places(spec, config(n_gpu_layers=99, device_shares=(3, 2)), both, {})
    assert shared == (("CUDA0", "CUDA0", "CUDA0", "CUDA1"), "CUDA1")
    by_memory = layer_places(spec, config(n_gpu_layers=99), both, {"CUDA0": 1e9, "CUDA1": 4e9})
    assert by_memory == (("CUDA0", "CUDA1", "CUDA1", "CUDA1"), "CUDA1")


def test_a_faster_device_pays_and_each_change_of_side_costs(tmp_path: Path) -> None:
    spec = model(tmp_path, "small")
    speed = machine_speed(device("CPU"), device("CUDA0", pace=10.0))
    costs = CostModel(speed)

    def placed(**fields: object) -> Placed:
        return Placed.of(spec, config(**fields), costs, {})

    on_cpu, on_gpu = placed(), placed(n_gpu_layers=99)
    aside = placed(n_gpu_layers=99, tensor_places=(TensorPlace(pattern=r"\.ffn_(up|gate|down)\.", device="CPU"),))
    assert costs.step_s(on_gpu, 0) < costs.step_s(on_cpu, 0)
    assert on_gpu.changes() == on_cpu.changes() == []
    assert len(placed(n_gpu_layers=3).changes()) == 1
    assert len(aside.changes()) == 8
    weights = sum(costs.matrix_s(where, tensor, 1) for tensor, where in aside.weights)
    assert costs.step_s(aside, 0) == pytest.approx(1e-4 + 4 * 1e-5 + 8 * 1e-4 + weights)


def test_the_head_of_a_tied_embedding_follows_the_gpu(tmp_path: Path) -> None:
    costs = CostModel(machine_speed(device("CPU"), device("CUDA0")))
    placed = Placed.of(model(tmp_path, "small"), config(n_gpu_layers=1), costs, {})
    assert {tensor.name: where for tensor, where in placed.weights}["token_embd.weight"] == "CUDA0"


def test_costs_of_parts_add_up_to_the_step(tmp_path: Path) -> None:
    spec = model(tmp_path, "1.1B")
    costs = CostModel(machine_speed(device("CPU")))
    placed = Placed.of(spec, config(), costs, {})
    parts = sum(costs.read_s("CPU", "q8_0", tensor.n_bytes) for tensor, _ in placed.weights)
    parts += spec.n_layers * (costs.layer_s("CPU") + costs.decode_attention_s("CPU", spec, "f16", 500))
    parts += costs.token_s(["CPU"], spec.vocab_size)
    assert costs.step_s(placed, 500) == pytest.approx(parts)
    with pytest.raises(SpeedUnknown):
        costs.read_s("Vulkan0", "q8_0", 1)


def test_more_rows_never_take_less_time(tmp_path: Path) -> None:
    costs = CostModel(machine_speed(device("CPU")))
    tensor = model(tmp_path, "1.1B").tensors[-1]
    seconds = [costs.matrix_s("CPU", tensor, rows) for rows in (0, 1, 2, 33, 64, 65, 128, 512)]
    assert seconds[0] == 0
    assert seconds == sorted(seconds)


def test_a_quantized_cache_has_its_own_speed_where_it_was_measured(tmp_path: Path) -> None:
    spec = model(tmp_path, "0.5B")
    slow = AttentionSpeed(kv_type="q8_0", read=figure(1e9), decode=figure(5e9), prefill=figure(5e9))
    known = machine_speed(device("CPU").model_copy(update={"attention": (slow,)}))
    small = config(kv_type="q8_0")
    own = predict_speed(spec, small, known, depth=2048, prompt_tokens=64)
    taken = predict_speed(spec, small, machine_speed(device("CPU")), depth=2048, prompt_tokens=64)
    assert value(own.tokens_per_s) < value(taken.tokens_per_s)
    assert own.note == ""
    assert "q8_0 keys and values is not measured on CPU: taken as f16" in taken.note
