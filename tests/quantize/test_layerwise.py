"""Rounding layer by layer: what is summed, what is written, and a run that was killed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("llama_cpp")

from edgemed.core.errors import ModelRefused
from edgemed.core.tensor_types import BY_NAME
from edgemed.models.checkpoint import Checkpoint, layer_of, open_checkpoint
from edgemed.quantize import layerwise
from edgemed.quantize.calibration_texts import CalibrationSet, CalibrationText
from edgemed.quantize.layerwise import round_layers
from edgemed.quantize.rounding import BlockRounding, CodeRounding, RoundedMatrix


def texts(seed: int = 0, count: int = 6, length: int = 40) -> CalibrationSet:
    rng = np.random.default_rng(seed)
    made = tuple(
        CalibrationText(tuple(rng.integers(0, 200, length).tolist()), rng.integers(1, 6, length).astype(np.float32))
        for _ in range(count)
    )
    return CalibrationSet(made, "random tokens", f"digest-{seed}")


def all_matrices(checkpoint: Checkpoint, kind: str = "iq4_nl") -> dict[str, BlockRounding]:
    return {
        name: BlockRounding(BY_NAME[kind])
        for name, tensor in checkpoint.tensors.items()
        if layer_of(name) is not None and len(tensor.shape) == 2
    }


def test_every_matrix_is_rounded_no_worse_than_to_nearest(qwen2: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(qwen2)
    assignment = all_matrices(checkpoint)
    finished = round_layers(checkpoint, assignment, texts(), tmp_path / "work")
    assert finished.keys() == assignment.keys()
    for tensor in finished.values():
        assert tensor.stored().shape[0] == checkpoint.tensors[tensor.name].shape[0]
        assert tensor.errors[tensor.method] == min(tensor.errors.values())
    compensated = [tensor for tensor in finished.values() if tensor.method == "compensated"]
    assert len(compensated) > len(finished) // 2


def test_second_moments_are_those_of_the_inputs_in_the_whole_model(qwen2: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    calibration = texts()
    seen: dict[str, np.ndarray] = {}
    keep = BlockRounding.round

    def spy(self: BlockRounding, weights: np.ndarray, hessian: np.ndarray, name: str, device: str) -> RoundedMatrix:
        seen[name] = hessian
        return keep(self, weights, hessian, name, device)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BlockRounding, "round", spy)
        checkpoint = open_checkpoint(qwen2)
        round_layers(checkpoint, all_matrices(checkpoint), calibration, tmp_path / "work")
    whole = AutoModelForCausalLM.from_pretrained(
        qwen2, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    )
    expected: dict[str, np.ndarray] = {}
    layer = whole.model.layers[0]
    for name, module in (("self_attn.v_proj", layer.self_attn.v_proj), ("mlp.down_proj", layer.mlp.down_proj)):
        caught: list[torch.Tensor] = []
        handle = module.register_forward_pre_hook(lambda _m, a, caught=caught: caught.append(a[0][0]))
        with torch.inference_mode():
            for text in calibration.texts:
                whole(torch.tensor([text.ids]))
        handle.remove()
        inputs = torch.cat(caught).double().numpy()
        weights = np.concatenate([text.weights for text in calibration.texts])
        expected[name] = (inputs * weights[:, None]).T @ inputs / weights.sum()
    for name, moments in expected.items():  # layer 0: nothing before it was rounded
        got = seen[f"model.layers.0.{name}.weight"]
        np.testing.assert_allclose(got, moments, rtol=1e-3, atol=1e-5 * np.abs(moments).max())
    assert np.array_equal(
        seen["model.layers.0.self_attn.q_proj.weight"], seen["model.layers.0.self_attn.v_proj.weight"]
    )


def test_a_killed_run_goes_on_with_the_layers_it_had_not_rounded(qwen2: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(qwen2)
    assignment = all_matrices(checkpoint)
    whole = round_layers(checkpoint, assignment, texts(), tmp_path / "whole")
    keep = layerwise._round_layer
    rounded: list[int] = []

    def dies(model: object, number: int, *rest: object) -> object:
        if number == 1 and not rounded.count(-1):
            rounded.append(-1)
            raise KeyboardInterrupt
        rounded.append(number)
        return keep(model, number, *rest)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layerwise, "_round_layer", dies)
        with pytest.raises(KeyboardInterrupt):
            round_layers(checkpoint, assignment, texts(), tmp_path / "work")
        resumed = round_layers(checkpoint, assignment, texts(), tmp_path / "work")
    assert rounded == [0, -1, 1]
    for name, tensor in whole.items():
        assert np.array_equal(resumed[name].stored(), tensor.stored())


def test_work_of_another_calibration_is_not_mixed_in(qwen2: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(qwen2)
    first = round_layers(checkpoint, all_matrices(checkpoint), texts(0), tmp_path / "work")
    other = round_layers(checkpoint, all_matrices(checkpoint), texts(1), tmp_path / "work")
    assert {tensor.path for tensor in first.values()}.isdisjoint(tensor.path for tensor in other.values())
    assert any(not np.array_equal(first[name].stored(), other[name].stored()) for name in first)


def test_a_matrix_of_zeros_is_named(qwen2: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    copy = tmp_path / "zeros"
    shutil.copytree(qwen2, copy)
    weights = load_file(copy / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][:] = 0
    save_file(weights, copy / "model.safetensors")
    checkpoint = open_checkpoint(copy)
    with pytest.raises(ModelRefused, match=r"layers\.1\.mlp\.up_proj"):
        round_layers(checkpoint, all_matrices(checkpoint), texts(), tmp_path / "work")


def test_codes_of_a_torch_format_are_rounded_the_same_way(qwen2: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from edgemed.quantize.torch_folder import int8_grid

    checkpoint = open_checkpoint(qwen2)
    assignment = {name: CodeRounding("int8", int8_grid) for name in all_matrices(checkpoint)}
    finished = round_layers(checkpoint, assignment, texts(), tmp_path / "work")
    for name, tensor in finished.items():
        assert tensor.format == "int8"
        assert tensor.stored().shape == checkpoint.tensors[name].shape
        assert tensor.errors[tensor.method] <= tensor.errors["nearest"]
