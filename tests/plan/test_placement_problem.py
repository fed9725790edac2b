"""The placement problem of a model: its units, their bytes and seconds, and the layers that are alike."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import write_tiny_qwen2

from edgemed.engines.memory_breakdown import RAM
from edgemed.models.gguf import check_gguf, spec_from_gguf
from edgemed.models.spec import ModelSpec, TensorSpec
from edgemed.plan.placement import Choice, DeviceLimit, PlacementProblem, Solution
from edgemed.plan.placement_problem import Candidate, PlacementCosts, format_candidates, placement_problem, unit_of
from edgemed.plan.placement_solver import solve

GPU = "CUDA0"
COSTS = PlacementCosts(
    devices=(DeviceLimit(device=RAM, free_bytes=10**9, overhead_bytes=7), DeviceLimit(device=GPU, free_bytes=10**9)),
    seconds_per_byte={(device, name): 1e-9 for device in (RAM, GPU) for name in ("q4_k", "q6_k", "q8_0", "f32")},
)


def model(*, types: tuple[str, ...] = ("q4_k", "q4_k"), tied: bool = False, fused: bool = False) -> ModelSpec:
    """Layers of 8 rows in each matrix of 256 columns, the type of `down` by layer; 100 bytes for every small tensor."""
    rows: list[tuple[str, str, int | None, str]] = [
        ("token_embd.weight", "embedding", None, "q8_0"),
        ("output_norm.weight", "norm", None, "f32"),
        ("rope_freqs.weight", "rope", None, "f32"),
    ]
    rows += [] if tied else [("output.weight", "head", None, "q6_k")]
    attention = ["attn_qkv"] if fused else ["attn_q", "attn_k", "attn_v"]
    for n, down in enumerate(types):
        rows += [(f"blk.{n}.{name}.weight", name.replace("attn_", "attention_"), n, "q4_k") for name in attention]
        rows += [
            (f"blk.{n}.attn_output.weight", "attention_output", n, "q4_k"),
            (f"blk.{n}.attn_q.bias", "bias", n, "f32"),
        ]
        rows += [(f"blk.{n}.ffn_norm.weight", "norm", n, "f32")]
        rows += [(f"blk.{n}.ffn_up.weight", "ffn_up", n, "q4_k"), (f"blk.{n}.ffn_down.weight", "ffn_down", n, down)]
        rows += [] if fused else [(f"blk.{n}.ffn_gate.weight", "ffn_gate", n, "q4_k")]
    sizes = {"q4_k": 8 * 144, "q6_k": 8 * 210, "q8_0": 8 * 272, "f32": 100}
    tensors = [
        TensorSpec(
            name=name,
            shape=(8, 256) if kind != "f32" else (25,),
            type=kind,
            role=role,
            layer=layer,
            n_bytes=sizes[kind],
        )
        for name, role, layer, kind in rows
    ]
    return ModelSpec(
        architecture="llama",
        n_layers=len(types),
        hidden_size=256,
        n_heads=2,
        n_kv_heads=2,
        head_dim=128,
        ffn_size=256,
        vocab_size=8,
        context_length=512,
        tied_embeddings=tied,
        tensors=tuple(tensors),
    )


def choice_of(problem: PlacementProblem, unit: str, device: str = RAM, layer: int = 0) -> Choice:
    choices = problem.head if unit == "head" else problem.class_of[layer].choices
    (found,) = [choice for choice in choices if (choice.unit, choice.device) == (unit, device)]
    return found


def test_units_have_the_bytes_of_their_tensors() -> None:
    problem = placement_problem(model(), COSTS)
    assert choice_of(problem, "attention").n_bytes == 4 * 8 * 144 + 2 * 100
    assert choice_of(problem, "gate_up").n_bytes == 2 * 8 * 144
    assert choice_of(problem, "down").n_bytes == 8 * 144
    assert choice_of(problem, "head").n_bytes == 8 * 210
    assert problem.final_bytes == 100
    assert {limit.device: limit.overhead_bytes for limit in problem.devices} == {RAM: 7 + 8 * 272 + 100, GPU: 100}


def test_nothing_is_lost_and_nothing_counted_twice() -> None:
    spec = model(types=("q4_k", "q6_k", "q4_k"))
    problem = placement_problem(spec, COSTS)
    units = sum(
        choice_of(problem, unit, layer=n).n_bytes for n in range(3) for unit in ("attention", "gate_up", "down")
    )
    everything = (
        units + choice_of(problem, "head").n_bytes + problem.final_bytes + problem.devices[0].overhead_bytes - 7
    )
    assert everything == spec.weight_bytes


def test_fused_matrices_are_units_too() -> None:
    problem = placement_problem(model(fused=True), COSTS)
    assert choice_of(problem, "attention").n_bytes == 2 * 8 * 144 + 2 * 100
    assert choice_of(problem, "gate_up").n_bytes == 8 * 144


def test_layers_of_another_mix_are_another_class() -> None:
    problem = placement_problem(model(types=("q4_k", "q6_k", "q4_k")), COSTS)
    assert [group.layers for group in problem.classes] == [(0, 2), (1,)]
    assert choice_of(problem, "down", layer=1).format == "q6_k"


def test_the_kv_cache_and_the_start_of_kernels_count_with_attention() -> None:
    costs = PlacementCosts(
        devices=COSTS.devices,
        seconds_per_byte=lambda device, _: 1e-9 if device == RAM else None,
        kv_bytes={RAM: 1000, GPU: 2000},
        kv_s={RAM: 0.5},
        unit_s={RAM: 0.25},
    )
    problem = placement_problem(model(), costs)
    attention = choice_of(problem, "attention")
    assert attention.n_bytes == 4 * 8 * 144 + 200 + 1000
    assert attention.seconds == pytest.approx(4 * 8 * 144e-9 + 0.75)
    assert choice_of(problem, "down").seconds == pytest.approx(8 * 144e-9 + 0.25)
    assert {choice.device for choice in problem.classes[0].choices} == {RAM}


def test_a_tied_head_on_a_gpu_is_a_copy() -> None:
    problem = placement_problem(model(tied=True), COSTS)
    assert problem.devices[0].overhead_bytes == 7 + 100
    in_ram, on_gpu = choice_of(problem, "head"), choice_of(problem, "head", GPU)
    assert (in_ram.n_bytes, in_ram.ram_bytes) == (8 * 272, 0)
    assert (on_gpu.n_bytes, on_gpu.ram_bytes) == (8 * 272, 8 * 272)


def test_a_tied_head_that_is_repacked_lies_twice_in_main_memory() -> None:
    costs = PlacementCosts(COSTS.devices, COSTS.seconds_per_byte, repacked=frozenset({"q8_0"}))
    head = choice_of(placement_problem(model(tied=True), costs), "head")
    assert head.n_bytes + head.ram_bytes == 2 * 8 * 272


def test_candidates_have_the_bytes_that_their_format_takes() -> None:
    spec = model()
    found = format_candidates(spec, ("q8_0", "q6_k"), lambda layer, unit, name: 1.0 if name == "q6_k" else 0.0)
    by_key = {(c.layer, c.unit, c.format): c.n_bytes for c in found}
    assert len(by_key) == 2 * (2 * 3 + 1)
    assert by_key[1, "attention", "q8_0"] == 4 * 8 * 272 + 200
    problem = placement_problem(spec, COSTS, found, error_budget=3.0)
    assert {choice.format for choice in problem.classes[0].choices} == {"q8_0", "q6_k"}
    solved = solve(problem)
    assert isinstance(solved, Solution)
    assert solved.cost.error <= 3.0


def test_candidates_in_the_units_own_format_change_no_byte() -> None:
    spec = model()
    own = format_candidates(spec, ("q4_k",), lambda *_: 0.0)
    layers = placement_problem(spec, COSTS, own).classes
    assert [c.n_bytes for c in layers[0].choices] == [
        c.n_bytes for c in placement_problem(spec, COSTS).classes[0].choices
    ]


def test_a_format_whose_blocks_do_not_fit_is_no_candidate() -> None:
    spec = model()
    narrow = spec.model_copy(
        update={
            "tensors": tuple(
                t.model_copy(update={"shape": (8, 96)}) if t.role == "ffn_down" else t for t in spec.tensors
            )
        }
    )
    found = format_candidates(narrow, ("q8_0", "q4_k"), lambda *_: 0.0)
    assert {c.format for c in found if c.unit == "down"} == {"q8_0"}


def test_candidates_for_what_is_not_there_are_refused() -> None:
    stray = Candidate(layer=9, unit="down", format="q4_k", n_bytes=1, error=0.0)
    with pytest.raises(ValueError, match="no down of layer 9"):
        placement_problem(model(), COSTS, [stray])


def test_a_model_without_a_units_tensors_is_refused() -> None:
    spec = model()
    bare = spec.model_copy(update={"tensors": tuple(t for t in spec.tensors if t.role != "ffn_down")})
    with pytest.raises(ValueError, match="no tensors for down of layer 0"):
        placement_problem(bare, COSTS)


def test_every_tensor_of_a_real_layer_has_a_unit(tmp_path: Path) -> None:
    spec = spec_from_gguf(check_gguf(write_tiny_qwen2(tmp_path / "real.gguf")))
    assert all(unit_of(tensor) is not None for tensor in spec.tensors if tensor.layer is not None)
    problem = placement_problem(spec, COSTS)
    assert problem.n_layers == spec.n_layers
