"""A layout in the engine's terms: what llama.cpp then does is what the layout says, by its rules and in a real load."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rpc_device import rpc_device
from tiny_models import write_tiny_qwen2

from edgemed.engines.base import EngineConfig
from edgemed.engines.memory_breakdown import RAM
from edgemed.engines.stopwatch import Stopwatch
from edgemed.models.gguf import check_gguf, spec_from_gguf
from edgemed.models.spec import ModelSpec, TensorSpec
from edgemed.plan.engine_layout import layer_pattern, to_engine_config
from edgemed.plan.memory import formula_sizes
from edgemed.plan.placement import DeviceLimit, LayerPlaces, Layout, Placed, Solution, layout_cost
from edgemed.plan.placement_problem import PlacementCosts, placement_problem
from edgemed.plan.placement_solver import solve

BASE = EngineConfig(model_path=Path("model.gguf"), context_length=256)


def spec_of(n_layers: int, *, tied: bool = False) -> ModelSpec:
    rows = [("token_embd.weight", "embedding", None), ("output_norm.weight", "norm", None)]
    rows += [] if tied else [("output.weight", "head", None)]
    for n in range(n_layers):
        rows += [(f"blk.{n}.attn_q.weight", "attention_q", n), (f"blk.{n}.ffn_norm.weight", "norm", n)]
        rows += [(f"blk.{n}.ffn_{name}.weight", f"ffn_{name}", n) for name in ("gate", "up", "down")]
    tensors = [
        TensorSpec(name=name, shape=(8, 32), type="q8_0", role=role, layer=layer, n_bytes=272)
        for name, role, layer in rows
    ]
    return ModelSpec(
        architecture="qwen2",
        n_layers=n_layers,
        hidden_size=32,
        n_heads=1,
        n_kv_heads=1,
        head_dim=32,
        ffn_size=8,
        vocab_size=8,
        context_length=256,
        tied_embeddings=tied,
        tensors=tuple(tensors),
    )


def layout_of(*rows: str, head: str = RAM) -> Layout:
    """Each row is one layer: the devices of attention, gate/up and down."""
    layers = []
    for row in rows:
        attention, gate_up, down = (Placed(device=device, format="q8_0") for device in row.split())
        layers.append(LayerPlaces(attention=attention, gate_up=gate_up, down=down))
    return Layout(layers=tuple(layers), head=Placed(device=head, format="q8_0"))


def as_the_engine_places(config: EngineConfig, spec: ModelSpec) -> dict[str, str]:
    """Device of each tensor by llama.cpp's rules, in 32-bit floats as there (llama-model.cpp, load_tensors)."""
    import numpy as np

    first = max(spec.n_layers + 1 - config.n_gpu_layers, 0)
    count = min(config.n_gpu_layers, spec.n_layers + 1)
    shares = config.device_shares or (1.0,) * len(config.devices[:1])
    splits = np.cumsum(np.array(shares, np.float32), dtype=np.float32)
    splits = splits / splits[-1] if len(splits) else splits

    def home(layer: int) -> str:
        if layer < first or layer - first >= count:
            return RAM
        position = np.float32(layer - first) / np.float32(count)
        return config.devices[int(np.searchsorted(splits, position, side="right"))]

    found = {}
    for tensor in spec.tensors:
        place = RAM if tensor.role == "embedding" else home(spec.n_layers if tensor.layer is None else tensor.layer)
        for moved in config.tensor_places:
            if re.search(moved.pattern, tensor.name):
                place = RAM if moved.device == "CPU" else moved.device
                break
        found[tensor.name] = place
    return found


def as_the_layout_says(layout: Layout, spec: ModelSpec) -> dict[str, str]:
    found = {"token_embd.weight": RAM, "output_norm.weight": layout.last_home}
    if not spec.tied_embeddings:
        found["output.weight"] = layout.head.device
    for n, places in enumerate(layout.layers):
        found |= {
            f"blk.{n}.attn_q.weight": places.attention.device,
            f"blk.{n}.ffn_norm.weight": places.attention.device,
        }
        found |= {f"blk.{n}.ffn_{name}.weight": places.gate_up.device for name in ("gate", "up")}
        found[f"blk.{n}.ffn_down.weight"] = places.down.device
    return found


@given(
    counts=st.lists(st.integers(0, 30), min_size=3, max_size=3).filter(any),
    moves=st.lists(st.tuples(*[st.sampled_from(["home", RAM, "CUDA0", "CUDA1"])] * 2), min_size=1, max_size=12),
    head=st.sampled_from(["last", RAM]),
)
@settings(max_examples=200, deadline=None)
def test_the_engine_places_every_tensor_as_the_layout_says(
    counts: list[int], moves: list[tuple[str, str]], head: str
) -> None:
    homes = [device for device, count in zip((RAM, "CUDA1", "CUDA0"), counts, strict=True) for _ in range(count)]
    rows = []
    for n, home in enumerate(homes):
        gate_up, down = (home if device == "home" else device for device in moves[n % len(moves)])
        rows.append(f"{home} {gate_up} {down}")
    layout, spec = layout_of(*rows, head=homes[-1] if head == "last" else RAM), spec_of(len(rows))
    config = to_engine_config(layout, spec, BASE)
    assert as_the_engine_places(config, spec) == as_the_layout_says(layout, spec)


def test_a_gpu_may_hold_the_head_alone() -> None:
    layout = layout_of("RAM RAM RAM", "CUDA0 CUDA0 CUDA0", head="CUDA1")
    config = to_engine_config(layout, spec_of(2), BASE)
    assert (config.n_gpu_layers, config.devices, config.device_shares) == (2, ("CUDA0", "CUDA1"), (1.0, 1.0))
    assert config.tensor_places == ()
    assert as_the_engine_places(config, spec_of(2)) == as_the_layout_says(layout, spec_of(2))


def test_whole_layers_need_no_patterns() -> None:
    config = to_engine_config(layout_of("RAM RAM RAM", *["CUDA0 CUDA0 CUDA0"] * 3, head="CUDA0"), spec_of(4), BASE)
    assert (config.n_gpu_layers, config.devices, config.device_shares) == (4, ("CUDA0",), ())
    assert config.tensor_places == ()


def test_main_memory_alone_needs_nothing() -> None:
    config = to_engine_config(layout_of(*["RAM RAM RAM"] * 3), spec_of(3), BASE)
    assert config == BASE


def test_layers_that_lack_the_same_weights_share_a_pattern() -> None:
    rows = ["CUDA0 RAM RAM"] * 14 + ["CUDA0 CUDA0 CUDA0"] * 14
    config = to_engine_config(layout_of(*rows, head="CUDA0"), spec_of(28), BASE)
    assert [place.pattern for place in config.tensor_places] == [r"^blk\.([0-9]|1[0-3])\.ffn_(gate|up|down)\."]


def test_a_tied_head_goes_to_main_memory_by_the_embeddings_name() -> None:
    config = to_engine_config(layout_of("CUDA0 CUDA0 CUDA0"), spec_of(1, tied=True), BASE)
    assert [place.pattern for place in config.tensor_places] == [r"^token_embd\.weight$"]


def test_a_layout_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="a layout of 1 layers for a model of 2"):
        to_engine_config(layout_of("RAM RAM RAM"), spec_of(2), BASE)


@given(numbers=st.sets(st.integers(0, 511), min_size=1))
@settings(max_examples=200, deadline=None)
def test_a_pattern_of_layers_matches_exactly_them(numbers: set[int]) -> None:
    pattern = re.compile(layer_pattern(numbers))
    assert {n for n in range(600) if pattern.fullmatch(str(n))} == numbers


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [(range(5, 18), "[5-9]|1[0-7]"), (range(10, 30), "[12][0-9]"), ([3], "3"), ([0, 1, 9], "[019]")],
)
def test_patterns_are_short(numbers: list[int], expected: str) -> None:
    assert layer_pattern(numbers) == expected


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen2(tmp_path_factory.mktemp("models") / "placed.gguf")


@pytest.mark.parametrize("share", [0.35, 0.7, 0.9])
def test_the_engine_takes_what_the_solution_says(model: Path, share: float) -> None:
    spec = spec_from_gguf(check_gguf(model))
    base = EngineConfig(model_path=model, context_length=512)
    kv_bytes = formula_sizes(spec, base).kv_cache // spec.n_layers
    everything = spec.weight_bytes + kv_bytes * spec.n_layers
    with rpc_device() as device:
        costs = PlacementCosts(
            devices=(
                DeviceLimit(device=RAM, free_bytes=10 * everything),
                DeviceLimit(device=device.name, free_bytes=int(share * everything)),
            ),
            seconds_per_byte=lambda where, _: 2e-9 if where == RAM else 1e-9,
            kv_bytes=kv_bytes,
        )
        problem = placement_problem(spec, costs)
        found = solve(problem)
        assert isinstance(found, Solution)
        with Stopwatch(to_engine_config(found.layout, spec, base)) as watch:
            taken = watch.loaded.memory
    expected = layout_cost(problem, found.layout).n_bytes
    assert expected[device.name] > 0.5 * share * everything
    for place, n_bytes in expected.items():
        weights, kv_cache, _ = taken[place]
        assert weights + kv_cache == n_bytes
