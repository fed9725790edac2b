"""Folders for torch: what is stored is exactly the grid's, what is loaded is exactly what was stored."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import write_checkpoint

from edgemed.core.errors import EdgemedError, ModelRefused, UsageError
from edgemed.formats.blocks import Grid
from edgemed.models.checkpoint import Checkpoint, open_checkpoint, spec_from_checkpoint
from edgemed.models.safetensors import read_safetensors
from edgemed.quantize import folder_files
from edgemed.quantize.torch_folder import (
    TorchFolderReport,
    int8_grid,
    nf4_grid,
    nf4_state,
    nf4_tensor,
    write_torch_folder,
)

pytestmark = [pytest.mark.needs_torch, pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*")]
torch = pytest.importorskip("torch", reason="needs torch")
bitsandbytes = pytest.importorskip("bitsandbytes", reason="needs bitsandbytes")
transformers = pytest.importorskip("transformers", reason="needs transformers")

IDS = [[5, 9, 40, 7, 100, 31, 250, 8, 77, 3, 60, 12]]


def test_stored_nf4_weights_are_the_grid_s_values_for_any_codes():
    random = np.random.default_rng(0)
    weights = (random.standard_normal((48, 192)) * random.uniform(0.001, 3, (48, 1))).astype(np.float32)
    weights[3] = 0
    codes = random.integers(0, 16, weights.shape).astype(np.uint8)
    state = nf4_state(weights)
    packed = torch.from_numpy(nf4_tensor(codes, state)[""])
    read = bitsandbytes.functional.dequantize_4bit(packed, state).numpy()
    assert np.abs(read - nf4_grid(weights).values(codes)).max() == 0.0


def test_grids_rise_and_reach_the_largest_weight():
    weights = np.random.default_rng(1).standard_normal((8, 128)).astype(np.float32)
    for grid in (nf4_grid(weights), int8_grid(weights)):
        assert (np.diff(grid.levels) > 0).all()
    assert np.allclose(int8_grid(weights).levels[-1] * int8_grid(weights).scale[:, 0], np.abs(weights).max(axis=1))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = write_checkpoint(tmp_path_factory.mktemp("parent") / "qwen2", "qwen2", intermediate_size=128)
    (folder / "LICENSE").write_text("of the parent", encoding="utf-8")
    return open_checkpoint(folder)


@pytest.fixture(scope="module")
def folder(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("made") / "out"
    write_torch_folder(checkpoint, output, formats(checkpoint), recipe_digest="ab" * 32)
    return output


def formats(checkpoint: Checkpoint, **changes: str) -> dict[str, str]:
    """nf4-int8 with other formats for some roles."""
    kinds = {"attention": "int8", "ffn": "nf4"} | changes
    spec = spec_from_checkpoint(checkpoint)
    return {tensor.name: kinds.get(tensor.role, kinds.get(tensor.role.split("_")[0], "f16")) for tensor in spec.tensors}


def load(folder: Path, dtype: Any = None) -> Any:
    import edgemed.quantize.mixed_quantizer  # noqa: F401

    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype or torch.float32).eval()


def logits(model: Any) -> Any:
    with torch.no_grad():
        return model(torch.tensor(IDS)).logits


def unpacked(checkpoint: Checkpoint, codes: dict[str, np.ndarray] | None = None) -> Any:
    """The parent in float32 with the same rounded weights in plain layers."""
    from edgemed.quantize.compensation import nearest_codes

    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint.folder, dtype=torch.float32).eval()
    for name, kind in formats(checkpoint).items():
        if kind in ("nf4", "int8"):
            weight = model.get_parameter(name).data
            grid: Grid = (nf4_grid if kind == "nf4" else int8_grid)(weight.numpy())
            weight.copy_(torch.from_numpy(grid.values((codes or {}).get(name, nearest_codes(weight.numpy(), grid)))))
    return model


def test_a_loaded_folder_computes_as_plain_layers_with_its_rounded_weights(checkpoint, folder):
    made, plain = logits(load(folder)), logits(unpacked(checkpoint))
    # The 8-bit layers scale the sum instead of each weight: float32's rounding, far below that of the weights.
    assert torch.allclose(made, plain, atol=1e-4 * float(plain.abs().max()))
    parent = transformers.AutoModelForCausalLM.from_pretrained(checkpoint.folder, dtype=torch.float32).eval()
    assert float((made - logits(parent)).abs().max()) > 1e-2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_loading_twice_and_saving_after_use_change_nothing(folder, tmp_path, dtype):
    first = load(folder, getattr(torch, dtype))
    expected = logits(first)
    assert torch.isfinite(expected).all()
    assert torch.equal(logits(load(folder, getattr(torch, dtype))), expected)
    first.save_pretrained(tmp_path / "again")
    again = load(tmp_path / "again", getattr(torch, dtype))
    assert torch.equal(logits(again), expected)
    assert {name: value.dtype for name, value in again.state_dict().items()} == {
        name: value.dtype for name, value in first.state_dict().items()
    }


def test_weights_stay_packed_in_memory(checkpoint, folder):
    from edgemed.quantize.mixed_quantizer import packed_layers

    model = load(folder)
    layers = packed_layers(model)
    expected = {name.removesuffix(".weight"): kind for name, kind in formats(checkpoint).items() if kind != "f16"}
    assert layers == expected
    logits(model)
    for name, kind in layers.items():
        weight = model.get_submodule(name).weight
        assert weight.dtype == (torch.uint8 if kind == "nf4" else torch.int8)


def test_the_type_asked_for_when_loading_is_the_type_of_all_that_is_not_packed(folder):
    floats = {
        value.dtype for name, value in load(folder, torch.float16).named_parameters() if value.is_floating_point()
    }
    assert floats == {torch.float16}


def test_unpacked_weights_are_the_parent_s_bit_for_bit(checkpoint, folder):
    stored = read_safetensors(folder / "model.safetensors")
    with checkpoint.reader() as reader:
        for name, kind in formats(checkpoint).items():
            if kind == "f16":
                mine, parent = stored[name], checkpoint.tensors[name]
                assert mine.dtype == parent.dtype == "BF16"
                rows = mine.shape[0]
                assert (reader.rows(mine, 0, rows) == reader.rows(parent, 0, rows)).all()


def test_codes_of_the_caller_are_stored(checkpoint, tmp_path):
    random = np.random.default_rng(2)
    kinds = {name: kind for name, kind in formats(checkpoint).items() if kind in ("nf4", "int8")}
    codes = {
        name: random.integers(4, 12, checkpoint.tensors[name].shape).astype(np.uint8)
        for name in kinds
        if "layers.0" in name
    }
    asked: list[str] = []

    def codes_for(name: str) -> np.ndarray | None:
        asked.append(name)
        return codes.get(name)

    report = write_torch_folder(checkpoint, tmp_path / "out", formats(checkpoint), codes_for)
    assert sorted(asked) == sorted(kinds)
    layers = [int(name.split(".")[2]) for name in asked]
    assert layers == sorted(layers)
    assert {tensor.name for tensor in report.tensors if tensor.codes == "given"} == set(codes)
    made, plain = logits(load(tmp_path / "out")), logits(unpacked(checkpoint, codes))
    assert torch.allclose(made, plain, atol=1e-4 * float(plain.abs().max()))


def test_the_report_adds_up_to_the_file(checkpoint, tmp_path):
    report = write_torch_folder(checkpoint, tmp_path / "out", formats(checkpoint))
    stored = read_safetensors(tmp_path / "out" / "model.safetensors")
    assert report.n_bytes == sum(tensor.n_bytes for tensor in stored.values())
    assert report.n_weights == sum(int(np.prod(tensor.shape)) for tensor in checkpoint.tensors.values())
    assert TorchFolderReport.model_validate_json(report.model_dump_json()) == report


def test_the_folder_is_complete(checkpoint, folder):
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "README.md", "LICENSE", "generation_config.json"} | {
        path.name for path in checkpoint.folder.glob("tokenizer*")
    }
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "ab" * 32 in card
    assert "nf4-int8" in card
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["quantization_config"]["recipe_digest"] == "ab" * 32
    transformers.AutoTokenizer.from_pretrained(folder)


def test_large_models_are_cut_into_files(checkpoint, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_files, "SHARD_BYTES", 40_000)
    write_torch_folder(checkpoint, tmp_path / "out", formats(checkpoint))
    assert len(list((tmp_path / "out").glob("model-*-of-*.safetensors"))) > 2
    assert torch.equal(logits(load(tmp_path / "out")), logits(load(folder)))


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3", "phi3"])
def test_other_architectures_load(tmp_path, architecture):
    parent = open_checkpoint(write_checkpoint(tmp_path / "parent", architecture, intermediate_size=128))
    head = {} if spec_from_checkpoint(parent).tied_embeddings else {"head": "int8"}
    write_torch_folder(parent, tmp_path / "out", formats(parent, **head))
    dense = transformers.AutoModelForCausalLM.from_pretrained(parent.folder, dtype=torch.float32).eval()
    made, expected = logits(load(tmp_path / "out")), logits(dense)
    assert torch.isfinite(made).all()
    assert float(torch.nn.functional.cosine_similarity(made.flatten(), expected.flatten(), dim=0)) > 0.9


def test_rows_that_do_not_fit_blocks_of_64_become_int8_and_it_is_said(tmp_path):
    parent = open_checkpoint(write_checkpoint(tmp_path / "parent", "qwen2", intermediate_size=96))
    report = write_torch_folder(parent, tmp_path / "out", formats(parent))
    changed = [tensor for tensor in report.tensors if tensor.reason and tensor.asked == "nf4"]
    assert {tensor.name.split(".")[-2] for tensor in changed} == {"down_proj"}
    assert all(tensor.format == "int8" and "96" in tensor.reason for tensor in changed)
    assert "down_proj.weight is int8" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert torch.isfinite(logits(load(tmp_path / "out"))).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_unusable_weights_are_refused_by_name_and_nothing_is_left(tmp_path, value):
    from safetensors.torch import load_file, save_file

    parent = write_checkpoint(tmp_path / "parent", "qwen2", intermediate_size=128)
    tensors = load_file(parent / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = torch.full_like(tensors[name], value)
    save_file(tensors, parent / "model.safetensors")
    opened = open_checkpoint(parent)
    with pytest.raises(ModelRefused, match=name):
        write_torch_folder(opened, tmp_path / "out", formats(opened))
    assert [path.name for path in tmp_path.iterdir()] == ["parent"]


def test_faults_of_an_assignment_are_told_together(checkpoint, tmp_path):
    wrong = formats(checkpoint, embedding="nf4", ffn="q4_k")
    del wrong["model.norm.weight"]
    wrong["nothing.weight"] = "f16"
    with pytest.raises(UsageError) as caught:
        write_torch_folder(checkpoint, tmp_path / "out", wrong)
    for part in ("nothing.weight: no such tensor", "embed_tokens.weight: nf4", "unknown format 'q4_k'"):
        assert part in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_foreign_folder_is_never_overwritten_and_our_own_is_replaced(checkpoint, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(UsageError, match="left as it is"):
        write_torch_folder(checkpoint, output, formats(checkpoint))
    assert (output / "thesis.txt").is_file()
    (output / "thesis.txt").unlink()
    write_torch_folder(checkpoint, output, formats(checkpoint))
    report = write_torch_folder(checkpoint, output, formats(checkpoint, ffn="int8"))
    assert "nf4" not in report.bytes_by_format()
    assert "nf4" not in (output / "README.md").read_text(encoding="utf-8").replace("nf4-int8", "")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_interrupted_work_leaves_the_older_folder(checkpoint, tmp_path):
    output = tmp_path / "out"
    write_torch_folder(checkpoint, output, formats(checkpoint))
    before = logits(load(output))

    def codes_for(name: str) -> None:
        if "layers.1" in name:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_torch_folder(checkpoint, output, formats(checkpoint), codes_for)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert torch.equal(logits(load(output)), before)


def test_such_a_folder_is_no_parent_for_an_export(folder):
    with pytest.raises(ModelRefused, match="quantized from"):
        open_checkpoint(folder)


def test_a_16_bit_parent_is_not_quantized_while_loading(checkpoint):
    from edgemed.quantize.mixed_quantizer import MixedConfig

    with pytest.raises(UsageError, match="does not quantize while loading"):
        transformers.AutoModelForCausalLM.from_pretrained(checkpoint.folder, quantization_config=MixedConfig())


@pytest.mark.parametrize(
    ("change", "words"),
    [({"layout": 2}, "layout 2"), ({"group": 3}, "keys group"), ({"int8": ["model.layers.9.mlp.x"]}, "layers.9")],
)
def test_a_folder_of_another_version_is_refused(folder, tmp_path, change, words):
    import shutil

    shutil.copytree(folder, tmp_path / "out")
    path = tmp_path / "out" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["quantization_config"] |= change
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelRefused, match=words):
        load(tmp_path / "out")


def test_gradients_pass_through_packed_layers(checkpoint, folder):
    made, plain = load(folder), unpacked(checkpoint)
    found = []
    for model in (made, plain):
        embedded = model.get_input_embeddings()(torch.tensor(IDS)).detach().requires_grad_(True)
        model(inputs_embeds=embedded).logits.square().mean().backward()
        found.append(embedded.grad)
    assert torch.allclose(found[0], found[1], rtol=1e-3, atol=1e-4 * float(found[1].abs().max()))


def test_adapters_go_on_every_packed_layer_and_are_trained(folder):
    peft = pytest.importorskip("peft", reason="needs peft")
    from edgemed.quantize.mixed_quantizer import check_adapters, lora_targets

    model = load(folder)
    targets = lora_targets(model)
    assert len(targets) == 2 * 7
    before = logits(model)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, use_rslora=True, target_modules=targets))
    check_adapters(adapted, targets)
    assert torch.equal(logits(adapted), before)
    adapted(torch.tensor(IDS), labels=torch.tensor(IDS)).loss.backward()
    trained = {name for name, value in adapted.named_parameters() if value.grad is not None}
    assert len([name for name in trained if "lora_B" in name]) == len(targets)
    assert all("lora" in name for name in trained)
    with pytest.raises((RuntimeError, ValueError)):
        adapted.merge_and_unload()  # into packed integers: must fail, not spoil them


def test_missing_adapters_and_dora_are_refused(folder):
    peft = pytest.importorskip("peft", reason="needs peft")
    from edgemed.quantize.mixed_quantizer import check_adapters, lora_targets

    model = load(folder)
    targets = lora_targets(model)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    with pytest.raises(EdgemedError, match="10 have no adapter"):
        check_adapters(adapted, targets)
    model = load(folder)
    int8 = [name for name in targets if "self_attn" in name]
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, use_dora=True, target_modules=int8))
    with pytest.raises(EdgemedError, match="DoRA"):
        check_adapters(adapted, int8)


def test_bitsandbytes_is_imported_without_fetching_kernels():
    program = (
        "import sys, types; trap = types.ModuleType('kernels'); calls = []\n"
        "trap.get_kernel = lambda *a, **k: calls.append(a)\n"
        "sys.modules['kernels'] = trap\n"
        "from edgemed.quantize.torch_folder import bitsandbytes_library\n"
        "library = bitsandbytes_library()\n"
        "assert library.functional and not calls and sys.modules['kernels'] is trap"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
