"""What cannot be exported is refused before any work, with everything that is wrong, and leaves no file."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checkpoints import write_byte_level_tokenizer, write_safetensors

from edgemed.core.errors import EdgemedError, MissingExtra, ModelRefused, UsageError
from edgemed.export import preflight
from edgemed.export.gguf import convert, export_gguf
from edgemed.export.preflight import prepare

pytest.importorskip("llama_cpp")

HIDDEN, FFN, HEADS = 32, 64, 2


def shapes(n_vocab: int) -> dict[str, list[int]]:
    layer = "model.layers.0."
    projections = {f"{layer}self_attn.{part}_proj": [HIDDEN, HIDDEN] for part in "qkvo"}
    ffn = {f"{layer}mlp.{part}_proj": [FFN, HIDDEN] for part in ("gate", "up")} | {
        f"{layer}mlp.down_proj": [HIDDEN, FFN]
    }
    norms = {name: [HIDDEN] for name in ("model.norm", f"{layer}input_layernorm", f"{layer}post_attention_layernorm")}
    weights = {f"{name}.weight": shape for name, shape in {**projections, **ffn, **norms}.items()}
    biases = {f"{layer}self_attn.{part}_proj.bias": [HIDDEN] for part in "qkv"}
    return {"model.embed_tokens.weight": [n_vocab, HIDDEN], **weights, **biases}


def zeros(shape: list[int]) -> tuple[str, list[int], bytes]:
    size = 4
    for extent in shape:
        size *= extent
    return "F32", shape, bytes(size)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A Qwen2 checkpoint of zeros, written without torch."""
    folder = tmp_path / "parent"
    folder.mkdir()
    n_vocab = write_byte_level_tokenizer(folder)
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "vocab_size": n_vocab,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {name: zeros(shape) for name, shape in shapes(n_vocab).items()}
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


def configure(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensors(folder: Path, change: Any) -> None:
    n_vocab = json.loads((folder / "config.json").read_text())["vocab_size"]
    tensors = {name: zeros(shape) for name, shape in shapes(n_vocab).items()}
    change(tensors)
    write_safetensors(folder / "model.safetensors", tensors)


def refused(source: Path, tmp_path: Path, recipe: str = "f16") -> EdgemedError:
    output = tmp_path / "out" / "model.gguf"
    with pytest.raises(EdgemedError) as caught:
        export_gguf(source, output, recipe=recipe)
    assert not output.parent.exists() or list(output.parent.iterdir()) == []
    assert caught.value.next_step
    return caught.value


def test_the_sound_checkpoint_is_accepted(source: Path, tmp_path: Path) -> None:
    plan = prepare(source, tmp_path / "out.gguf", "q8_0")
    convert(plan, tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").stat().st_size == plan.layout.file_bytes


def test_all_faults_are_named_together(source: Path, tmp_path: Path) -> None:
    configure(source, num_hidden_layers=2)
    (source / "tokenizer.json").unlink()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.gguf").mkdir()
    with pytest.raises(ModelRefused) as caught:
        export_gguf(source, tmp_path / "out" / "model.gguf", recipe="f16")
    assert "3 things" in caught.value.what
    for part in ("model.layers.1.", "tokenizer.json", "is a folder"):
        assert part in caught.value.what


def test_a_fault_that_several_checks_find_is_said_once(source: Path, tmp_path: Path) -> None:
    configure(source, hidden_size=0)
    (source / "tokenizer.json").unlink()
    what = refused(source, tmp_path).what
    assert "2 things" in what
    assert what.count("hidden_size is 0") == 1


@pytest.mark.parametrize("place", ["rope_theta", "rope_parameters"])
def test_a_rotary_base_of_nought_is_found_before_anything_is_written(source: Path, tmp_path: Path, place: str) -> None:
    configure(source, **{place: 0 if place == "rope_theta" else {"rope_type": "default", "rope_theta": 0}})
    assert "rope_theta is 0" in refused(source, tmp_path).what


def test_an_unknown_architecture_is_answered_with_the_known_ones(source: Path, tmp_path: Path) -> None:
    configure(source, architectures=["MambaForCausalLM"], model_type="mamba")
    error = refused(source, tmp_path)
    assert error.exit_code == 5
    for name in ("MambaForCausalLM", "LlamaForCausalLM", "Qwen2ForCausalLM", "Gemma3ForCausalLM", "Phi3ForCausalLM"):
        assert name in error.what


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda t: t.pop("model.norm.weight"), "model.norm.weight is missing"),
        (lambda t: t.update({"extra.weight": zeros([2, 2])}), "extra.weight is not known"),
        (lambda t: t.update({"model.norm.weight": zeros([HIDDEN - 1])}), "has shape [31], the configuration says [32]"),
        (lambda t: t.update({"model.norm.weight": ("I64", [HIDDEN], bytes(8 * HIDDEN))}), "stored as I64"),
    ],
)
def test_tensors_must_match_the_configuration(source: Path, tmp_path: Path, change: Any, part: str) -> None:
    change_tensors(source, change)
    error = refused(source, tmp_path)
    assert isinstance(error, ModelRefused)
    assert part in error.what


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"head_dim": 8}, "head_dim"),
        ({"rope_scaling": {"rope_type": "spiral", "factor": 2}}, "spiral"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "beta_fast": 16}}, "beta_fast"),
        ({"rope_theta": -1}, "rope_theta"),
        ({"num_hidden_layers": 2**30}, "num_hidden_layers"),
    ],
)
def test_configurations_the_engine_cannot_run_are_refused(
    source: Path, tmp_path: Path, changes: dict[str, Any], part: str
) -> None:
    configure(source, **changes)
    error = refused(source, tmp_path)
    assert isinstance(error, ModelRefused)
    assert part in error.what


@pytest.mark.parametrize("value", [b"\x00\x00\xc0\x7f", b"\x00\x00\x80\xff"], ids=["NaN", "infinity"])
def test_broken_weights_leave_no_file(source: Path, tmp_path: Path, value: bytes) -> None:
    broken = ("F32", [HIDDEN, FFN], bytes(4 * 100) + value + bytes(4 * (HIDDEN * FFN - 101)))
    change_tensors(source, lambda t: t.update({"model.layers.0.mlp.down_proj.weight": broken}))
    error = refused(source, tmp_path)
    assert "model.layers.0.mlp.down_proj.weight" in error.what


def test_a_shard_cut_short_while_it_is_read_leaves_no_file(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = prepare

    def cut_after_preflight(*arguments: Any) -> Any:
        plan = made(*arguments)
        path = source / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1000])
        return plan

    monkeypatch.setattr("edgemed.export.gguf.prepare", cut_after_preflight)
    assert "ends inside tensor" in refused(source, tmp_path).what


@pytest.mark.parametrize("recipe", ["auto", "q4_k_s", "nonsense"])
def test_recipes_that_are_not_there_name_those_that_are(source: Path, tmp_path: Path, recipe: str) -> None:
    error = refused(source, tmp_path, recipe)
    assert isinstance(error, UsageError)
    assert "bf16, f16, f32, int4, int8, iq4_nl, nf4-int8, q2_k, q4_0, q4_k_m, q8_0" in error.what


def test_a_tokenizer_its_own_library_refuses_is_refused_before_any_work(source: Path, tmp_path: Path) -> None:
    path = source / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    del tokenizer["decoder"]["type"]
    path.write_text(json.dumps(tokenizer))
    assert "tokenizers library" in refused(source, tmp_path).what


def test_a_file_of_another_kind_is_never_replaced(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "thesis.docx"
    output.write_bytes(b"PK years of work")
    with pytest.raises(UsageError, match="no GGUF file"):
        export_gguf(source, output, recipe="f16")
    assert output.read_bytes() == b"PK years of work"


def test_a_path_that_is_no_folder_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        export_gguf(tmp_path / "nowhere", tmp_path / "out.gguf", recipe="f16")


def test_without_the_engine_the_extra_is_named(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgemed.export.engine_question.find_spec", lambda name: None)
    with pytest.raises(MissingExtra) as caught:
        export_gguf(source, tmp_path / "out.gguf", recipe="f16")
    assert caught.value.next_step == "pip install 'edgemed[llama-cpp]'"


def test_a_disk_too_small_is_known_before_the_first_byte(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    error = refused(source, tmp_path)
    assert isinstance(error, UsageError)
    assert "1000 B free" in error.what


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.name != "posix":
        pytest.skip("mounting a small disk needs a POSIX system")
    made = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode != 0:
        pytest.skip(f"mounting a small disk was refused: {made.stderr.decode().strip()[:100]}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_leaves_no_half_file(
    source: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "_check_space", lambda *_: None)  # somebody else fills the disk after the check
    with pytest.raises(EdgemedError, match="No space left") as caught:
        export_gguf(source, small_disk / "model.gguf", recipe="f32")
    assert caught.value.exit_code == 1
    assert "free space" in caught.value.next_step
    assert list(small_disk.iterdir()) == []


def test_an_engine_that_dies_on_the_file_is_an_error_of_ours(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgemed.export.engine_question.sys.executable", shutil.which("false"))
    error = refused(source, tmp_path)
    assert error.exit_code == 6
    assert "nothing was written" in error.next_step


@pytest.mark.parametrize(
    ("name", "strips", "safe"),
    [
        ("Phi-3-mini", True, "Phi-3-mini"),
        ("my model", True, "my model (phi-3)"),
        ("tiny-Phi3-Phi-3", False, "tiny-phi 3-phi 3"),
        ("qwen", False, "qwen"),
    ],
)
def test_names_say_phi_3_exactly_when_blanks_are_dropped(name: str, strips: bool, safe: str) -> None:
    assert preflight._engine_safe_name(name, strips=strips) == safe
