import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import write_safetensors

from edgemed.core.errors import ModelRefused
from edgemed.models.checkpoint import open_checkpoint, spec_from_checkpoint

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 4,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 6,
    "max_position_embeddings": 16,
}
VALUES = np.arange(24, dtype=np.float32).reshape(6, 4) / 8


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    embedding = ("F32", [6, 4], VALUES.tobytes())
    write_safetensors(tmp_path / "model.safetensors", {"model.embed_tokens.weight": embedding})
    return tmp_path


def configure(folder: Path, **changes: Any) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))


def shard(folder: Path, places: dict[str, Any]) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def test_spec_says_what_the_model_is(folder: Path) -> None:
    spec = spec_from_checkpoint(open_checkpoint(folder))
    assert (spec.architecture, spec.head_dim, spec.tied_embeddings, spec.n_parameters) == ("qwen2", 2, True, 24)
    assert spec.tensors[0].role == "embedding"


@pytest.mark.parametrize(("dtype", "bits"), [("F32", 32), ("F16", 16), ("BF16", 16)])
def test_rows_come_as_exact_float32_from_every_type(folder: Path, dtype: str, bits: int) -> None:
    raw = VALUES.astype(np.float16).tobytes() if dtype == "F16" else VALUES.tobytes()
    if dtype == "BF16":
        raw = (VALUES.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    write_safetensors(folder / "model.safetensors", {"x": (dtype, [6, 4], raw)})
    checkpoint = open_checkpoint(folder)
    with checkpoint.reader() as reader:
        assert np.array_equal(reader.float32(checkpoint.tensors["x"], 2, 5), VALUES[2:5])
        assert np.array_equal(reader.float32(checkpoint.tensors["x"]), VALUES)
    assert checkpoint.tensors["x"].n_bytes == 24 * bits // 8


def test_a_file_cut_short_after_opening_is_refused(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with checkpoint.reader() as reader, pytest.raises(ModelRefused, match="ends inside tensor"):
        reader.rows(checkpoint.tensors["model.embed_tokens.weight"], 0, 6)


def test_a_folder_without_configuration_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=r"no config\.json"):
        open_checkpoint(tmp_path)


def test_pickled_weights_are_refused_unopened(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04 never read")
    with pytest.raises(ModelRefused, match="pickled"):
        open_checkpoint(folder)


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelRefused, match="no weights"):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_checkpoint_that_brings_code_is_refused(folder: Path, name: str) -> None:
    content = CONFIG if name == "config.json" else {}
    (folder / name).write_text(json.dumps(content | {"auto_map": {"AutoConfig": "evil.Config"}}))
    with pytest.raises(ModelRefused, match="auto_map"):
        open_checkpoint(folder)


def test_quantized_weights_are_refused(folder: Path) -> None:
    configure(folder, quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(ModelRefused, match="already quantized"):
        open_checkpoint(folder)


def test_missing_shards_are_named(folder: Path) -> None:
    shard(folder, {"model.embed_tokens.weight": "model-00001-of-00001.safetensors", "x": "model-00002.safetensors"})
    with pytest.raises(ModelRefused, match=r"lacks 1 of 2 shards: model-00002\.safetensors"):
        open_checkpoint(folder)


def test_a_tensor_missing_from_its_shard_is_named(folder: Path) -> None:
    shard(folder, {"lm_head.weight": "model-00001-of-00001.safetensors"})
    with pytest.raises(ModelRefused, match=r"lm_head\.weight"):
        open_checkpoint(folder)


@pytest.mark.parametrize("place", ["../model.safetensors", "/etc/passwd", "weights.bin", 7])
def test_an_index_cannot_point_out_of_the_folder(folder: Path, place: Any) -> None:
    shard(folder, {"model.embed_tokens.weight": place})
    with pytest.raises(ModelRefused):
        open_checkpoint(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "\x00", '{"a": ' + "9" * 5000 + "}"])
def test_a_damaged_configuration_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelRefused):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": None},
        {"hidden_size": 0},
        {"hidden_size": "big"},
        {"hidden_size": 2**40},
        {"num_hidden_layers": 0},
        {"num_hidden_layers": 2**30},
        {"vocab_size": True},
        {"num_attention_heads": -2},
        {"tie_word_embeddings": "yes"},
    ],
)
def test_senseless_sizes_are_refused_by_name(folder: Path, change: dict[str, Any]) -> None:
    configure(folder, **change)
    with pytest.raises(ModelRefused, match=next(iter(change))):
        spec_from_checkpoint(open_checkpoint(folder))


def test_a_tensor_of_another_type_is_refused_when_read(folder: Path) -> None:
    write_safetensors(folder / "model.safetensors", {"x": ("I64", [2], bytes(16))})
    checkpoint = open_checkpoint(folder)
    with checkpoint.reader() as reader, pytest.raises(ModelRefused, match="I64"):
        reader.rows(checkpoint.tensors["x"], 0, 2)
