"""Rounding layer by layer: what is summed, what is written, and a run that was killed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("llama_cpp")

from edgemed.core.errors import EdgemedError, ModelRefused
from edgemed.core.tensor_types import BY_NAME, TensorType
from edgemed.models.checkpoint import Checkpoint, layer_of, open_checkpoint
from edgemed.quantize import layerwise
from edgemed.quantize.calibration_texts import CalibrationSet, CalibrationText
from edgemed.quantize.layerwise import round_layers


def texts(seed: int = 0, count: int = 6, length: int = 40) -> CalibrationSet:
    rng = np.random.default_rng(seed)
    made = tuple(
        CalibrationText(tuple(rng.integers(0, 200, length).tolist()), rng.integers(1, 6, length).astype(np.float32))
        for _ in range(count)
    )
    return CalibrationSet(made, "random tokens", f"digest-{seed}")


def all_matrices(checkpoint: Checkpoint, kind: str = "iq4_nl") -> dict[str, TensorType]:
    return {
        name: BY_NAME[kind]
        for name, tensor in checkpoint.tensors.items()
        if layer_of(name) is not None and len(tensor.shape) == 2
    }


def test_every_matrix_is_rounded_no_worse_than_to_nearest(qwen2: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(qwen2)
    assignment = all_matrices(checkpoint)
    finished = round_layers(checkpoint, assignment, texts(), tmp_path / "work")
    assert finished.keys() == assignment.keys()
    for tensor in finished.values():
        assert tensor.packed().shape[0] == checkpoint.tensors[tensor.name].shape[0]
        assert tensor.errors[tensor.method] == min(tensor.errors.values())
    compensated = [tensor for tensor in finished.values() if tensor.method == "compensated"]
    assert len(compensated) > len(finished) // 2


def test_second_moments_are_those_of_the_inputs_in_the_whole_model(qwen2: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    calibration = texts()
    seen: dict[str, np.ndarray] = {}
    keep = layerwise.round_matrix

    def spy(weights: np.ndarray, kind: TensorType, hessian: np.ndarray, name: str, device: str) -> object:
        seen[name] = hessian
        return keep(weights, kind, hessian, name, device=device)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layerwise, "round_matrix", spy)
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
        assert np.array_equal(resumed[name].packed(), tensor.packed())


def test_work_of_another_calibration_is_not_mixed_in(qwen2: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(qwen2)
    round_layers(checkpoint, all_matrices(checkpoint), texts(0), tmp_path / "work")
    with pytest.raises(EdgemedError, match="another model, recipe or calibration"):
        round_layers(checkpoint, all_matrices(checkpoint), texts(1), tmp_path / "work")


def test_a_folder_that_is_not_ours_is_left_alone(qwen2: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").write_text("ten years of work")
    checkpoint = open_checkpoint(qwen2)
    with pytest.raises(EdgemedError, match="not ours"):
        round_layers(checkpoint, all_matrices(checkpoint), texts(), tmp_path)
    assert json.dumps("ten years of work") == json.dumps((tmp_path / "thesis.doc").read_text())


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
