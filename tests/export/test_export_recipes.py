"""Files of few bits: what llama.cpp itself would make, checked against the weights they really hold."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import write_checkpoint

from edgemed.core.errors import ModelRefused, UsageError
from edgemed.core.records import NotAvailable
from edgemed.core.tensor_types import BY_NAME
from edgemed.demo import demo_checkpoint_path
from edgemed.engines.rounding import round_rows
from edgemed.export import stream
from edgemed.export.gguf import export_gguf
from edgemed.export.preflight import prepare
from edgemed.export.report import ExportReport, LogitCheck
from edgemed.formats.recipes import find_recipe
from edgemed.models.checkpoint import open_checkpoint
from edgemed.models.gguf import check_gguf

pytestmark = pytest.mark.needs_torch
pytest.importorskip("llama_cpp")

MakeCheckpoint = Callable[[str], Path]
LLAMA_FILE_TYPE = {"q4_0": 2, "q2_k": 10, "q4_k_m": 15, "iq4_nl": 25}
QUANTIZE = """
import ctypes, sys
import llama_cpp
settings = llama_cpp.llama_model_quantize_default_params()
settings.ftype, settings.nthread = int(sys.argv[3]), 1
sys.exit(llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(settings)))
"""
WIDE = {"hidden_size": 256, "intermediate_size": 512}
"""Rows of whole 256-blocks."""
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "tied, 2 heads a key": ("qwen2", WIDE | {"num_hidden_layers": 9, "tie_word_embeddings": True}),
    "own head, 4 heads a key": (
        "qwen2",
        WIDE | {"num_hidden_layers": 5, "num_key_value_heads": 1, "tie_word_embeddings": False},
    ),
    "interleaved heads": ("llama", WIDE | {"num_hidden_layers": 3, "head_dim": 64}),
    "fused projections": ("phi3", WIDE | {"num_hidden_layers": 4, "num_key_value_heads": 1}),
    "rows of half blocks": ("qwen2", {"hidden_size": 64, "intermediate_size": 96}),
    "rows of no block": ("qwen2", {"hidden_size": 256, "intermediate_size": 168}),
}


def tensors_of(path: Path) -> dict[str, tuple[str, bytes]]:
    """Type and bytes of every tensor."""
    raw = path.read_bytes()
    return {
        tensor.name: (tensor.type.name, raw[tensor.offset : tensor.offset + tensor.n_bytes])
        for tensor in check_gguf(path).tensors
    }


def quantized_by_llama_cpp(parent: Path, recipe: str) -> Path:
    """What llama.cpp makes of a GGUF of 16 or 32 bits."""
    output = parent.with_name(f"theirs-{recipe}.gguf")
    command = [sys.executable, "-c", QUANTIZE, str(parent), str(output), str(LLAMA_FILE_TYPE[recipe])]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return output


def checked(report: ExportReport) -> LogitCheck:
    assert report.tokens.identical == report.tokens.n_strings
    assert not isinstance(report.logits, NotAvailable)
    return report.logits


@pytest.mark.parametrize("name", SHAPES)
def test_mixes_named_after_llama_cpp_s_are_theirs_bit_for_bit(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    architecture, changes = SHAPES[name]
    source = write_checkpoint(tmp_path / "parent", architecture, **changes)
    convert_only(monkeypatch)
    export_gguf(source, tmp_path / "parent.gguf", recipe="f32")
    for recipe in LLAMA_FILE_TYPE:
        export_gguf(source, tmp_path / "ours.gguf", recipe=recipe)
        ours = tensors_of(tmp_path / "ours.gguf")
        theirs = tensors_of(quantized_by_llama_cpp(tmp_path / "parent.gguf", recipe))
        assert {name: kind for name, (kind, _) in ours.items()} == {name: kind for name, (kind, _) in theirs.items()}
        assert [name for name in ours if ours[name] != theirs[name]] == []


def convert_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the verification out, where a test compares the bytes themselves."""
    from edgemed.export import gguf
    from edgemed.export.report import TokenCheck

    tokens = TokenCheck(n_strings=0, n_tokens=0, identical=0)
    monkeypatch.setattr(gguf, "_verify", lambda *_: (tokens, NotAvailable(reason="left out")))


def test_the_demonstration_model_in_q4_k_m_is_llama_cpp_s_bit_for_bit_and_answers(tmp_path: Path) -> None:
    source = demo_checkpoint_path()
    export_gguf(source, tmp_path / "parent.gguf", recipe="f16")
    report = export_gguf(source, tmp_path / "ours.gguf", recipe="q4_k_m")
    theirs = quantized_by_llama_cpp(tmp_path / "parent.gguf", "q4_k_m")
    assert tensors_of(tmp_path / "ours.gguf") == tensors_of(theirs)
    assert checked(report).reference == "rounded parent"
    assert check_gguf(tmp_path / "ours.gguf").metadata["general.file_type"] == LLAMA_FILE_TYPE["q4_k_m"]


@pytest.mark.parametrize(
    ("architecture", "recipe"),
    [("qwen2", "nf4-int8"), ("llama", "int4"), ("gemma3", "nf4-int8"), ("phi3", "q2_k"), ("qwen3", "int8")],
)
def test_files_of_few_bits_compute_what_their_weights_say(
    checkpoint: MakeCheckpoint, tmp_path: Path, architecture: str, recipe: str
) -> None:
    check = checked(export_gguf(checkpoint(architecture), tmp_path / "out.gguf", recipe=recipe))
    assert check.max_difference <= check.limit / 2
    assert check.reference == ("parent" if recipe == "int8" else "rounded parent")


@pytest.mark.parametrize("recipe", ["nf4-int8", "q4_k_m", "q2_k"])
def test_a_permutation_forgotten_while_rounding_is_caught(
    checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    monkeypatch.setattr(stream, "interleave_heads", lambda rows, n_heads: rows)
    with pytest.raises(ModelRefused, match=r"weights of model\.layers\.\d\.self_attn\.[qk]_proj\.weight are not"):
        export_gguf(checkpoint("llama"), tmp_path / "out.gguf", recipe=recipe)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("recipe", ["nf4-int8", "q4_k_m", "q2_k"])
def test_a_permutation_that_nobody_planned_is_caught(
    checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    monkeypatch.setattr("edgemed_converters.llama.Converter.interleaved", False)
    with pytest.raises(ModelRefused, match="something else than the rounded parent"):
        export_gguf(checkpoint("llama"), tmp_path / "out.gguf", recipe=recipe)
    assert list(tmp_path.iterdir()) == []


class Recorder:
    """Rounds one tensor with an importance, and remembers what it was asked for."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: dict[str, list[tuple[int, int]]] = {}

    def packed(self, planned: Any, kind: Any, weights: Any, start: int) -> Any:
        self.asked.setdefault(planned.name, []).append((start, start + len(weights)))
        if planned.name != self.name:
            return None
        return round_rows(weights, kind, np.linspace(1, 9, weights.shape[1], dtype=np.float32))


def test_a_rounder_s_tensors_are_written_and_the_others_rounded_to_nearest(
    checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "CHUNK_BYTES", 4096)  # several pieces for each tensor
    name = "blk.1.attn_q.weight"
    rounder = Recorder(name)
    export_gguf(checkpoint("llama"), tmp_path / "plain.gguf", recipe="nf4-int8")
    checked(export_gguf(checkpoint("llama"), tmp_path / "ours.gguf", recipe="nf4-int8", assignment={name: "nf4"}))
    assigned = tensors_of(tmp_path / "ours.gguf")
    arguments: dict[str, Any] = {"recipe": "nf4-int8", "assignment": {name: "nf4"}, "rounder": rounder}
    checked(export_gguf(checkpoint("llama"), tmp_path / "ours.gguf", **arguments))
    plain, ours = tensors_of(tmp_path / "plain.gguf"), tensors_of(tmp_path / "ours.gguf")
    assert ours[name][0] == "iq4_nl"
    assert [other for other in ours if ours[other] != plain[other]] == [name]
    assert ours[name] != assigned[name]
    matrices = {tensor.name: tensor.shape for tensor in check_gguf(tmp_path / "ours.gguf").tensors if tensor.shape[1:]}
    assert rounder.asked.keys() == matrices.keys()
    for asked, shape in matrices.items():
        ends = [0, *(stop for _, stop in rounder.asked[asked])]
        assert [start for start, _ in rounder.asked[asked]] == ends[:-1]
        assert ends[-1] == shape[0]
    assert len(rounder.asked[name]) > 1


@pytest.mark.parametrize("n_threads", [1, 3])
def test_threads_do_not_change_the_bytes(
    checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_threads: int
) -> None:
    monkeypatch.setattr(stream, "_SHARED_WEIGHTS", 64)
    monkeypatch.setattr(stream, "_usable_cores", lambda: n_threads)
    convert_only(monkeypatch)
    source = open_checkpoint(checkpoint("llama"))
    export_gguf(source.folder, tmp_path / "ours.gguf", recipe="q4_k_m")
    kind, packed = tensors_of(tmp_path / "ours.gguf")["blk.1.attn_output.weight"]
    with source.reader() as reader:
        weights = reader.float32(source.tensors["model.layers.1.self_attn.o_proj.weight"])
    assert packed == round_rows(weights, BY_NAME[kind]).tobytes()


def test_a_rounder_that_hands_over_another_tensor_is_caught(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    class Mistaken:
        def packed(self, planned: Any, kind: Any, weights: Any, start: int) -> Any:
            return round_rows(weights[::-1], kind) if planned.name == "blk.0.ffn_up.weight" else None

    with pytest.raises(ModelRefused, match=r"weights of model\.layers\.0\.mlp\.up_proj\.weight are not the parent's"):
        export_gguf(checkpoint("qwen2"), tmp_path / "out.gguf", recipe="nf4-int8", rounder=Mistaken())
    assert list(tmp_path.iterdir()) == []


def test_the_report_says_where_the_bytes_went_and_the_file_names_its_recipe(
    checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    report = export_gguf(checkpoint("qwen2"), tmp_path / "out.gguf", recipe="q4_k_m")
    header = check_gguf(tmp_path / "out.gguf")
    n_bytes = sum(tensor.n_bytes for tensor in header.tensors)
    assert sum(report.bytes_per_role.values()) == sum(report.bytes_per_type.values()) == n_bytes
    assert report.bytes_per_role.keys() >= {"embedding", "attention_q", "ffn_down", "norm", "bias"}
    n_weights = sum(int(np.prod(tensor.shape)) for tensor in header.tensors)
    assert report.bits_per_weight == pytest.approx(8 * n_bytes / n_weights)
    assert {(one.wanted, one.got) for one in report.fallbacks} == {("q4_k", "q5_0"), ("q6_k", "q8_0")}
    assert all("block of 256" in one.reason for one in report.fallbacks)
    own = {key: value for key, value in header.metadata.items() if key.startswith("edgemed.recipe")}
    digest = find_recipe("q4_k_m").digest()
    assert own == {"edgemed.recipe": "q4_k_m", "edgemed.recipe_digest": digest}
    assert report.recipe_digest == digest


@pytest.mark.parametrize(
    ("recipe", "number"), [("f32", 0), ("f16", 1), ("bf16", 32), ("int8", 7), ("nf4-int8", 25), ("int4", 15)]
)
def test_the_file_type_is_that_of_most_weights_of_the_layers(
    checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str, number: int
) -> None:
    convert_only(monkeypatch)
    export_gguf(checkpoint("qwen2"), tmp_path / "out.gguf", recipe=recipe)
    assert check_gguf(tmp_path / "out.gguf").metadata["general.file_type"] == number


def test_a_recipe_from_a_file_of_one_s_own_is_exported(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    recipe = tmp_path / "first.toml"
    recipe.write_text(
        'name = "first-layer-first"\ndescription = "The first layer keeps 16 bits."\n'
        '[[rules]]\nroles = ["attention", "feed_forward"]\nlayers = { numbers = [0] }\nformat = "f16"\n'
        '[[rules]]\nroles = ["attention", "feed_forward", "embedding", "head"]\nformat = "nf4"\n'
        '[[rules]]\nroles = ["small"]\nformat = "f32"\n'
    )
    report = export_gguf(checkpoint("qwen2"), tmp_path / "out.gguf", recipe=str(recipe))
    checked(report)
    assert report.recipe == "first-layer-first"
    kinds = {name: kind for name, (kind, _) in tensors_of(tmp_path / "out.gguf").items()}
    assert kinds["blk.0.ffn_up.weight"] == "f16"
    assert kinds["blk.1.ffn_up.weight"] == kinds["token_embd.weight"] == "iq4_nl"


def test_an_assignment_to_a_tensor_that_is_not_there_is_refused_before_any_work(
    checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"no tensor blk\.7\.ffn_up\.weight"):
        prepare(checkpoint("qwen2"), tmp_path / "out.gguf", "int4", {"blk.7.ffn_up.weight": "int8"})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_weights_are_named_when_llama_cpp_rounds_them(tmp_path: Path, value: float) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    source = write_checkpoint(tmp_path / "parent", "qwen2")
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][5, 7] = torch.tensor(value)
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelRefused, match=r"model\.layers\.1\.mlp\.up_proj\.weight holds NaN or infinity"):
        export_gguf(source, tmp_path / "out.gguf", recipe="q4_k_m")
    assert not (tmp_path / "out.gguf").exists()


def test_weights_too_large_for_the_scales_of_blocks_are_found_without_the_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    source = write_checkpoint(tmp_path / "parent", "qwen2")
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"] *= 1e12
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.setattr("edgemed.export.parent_logits.find_spec", lambda name: None)
    with pytest.raises(ModelRefused, match="computes NaN or infinity"):
        export_gguf(source, tmp_path / "out.gguf", recipe="nf4-int8")
    assert not (tmp_path / "out.gguf").exists()


def test_every_type_that_rows_can_fall_back_to_is_read_back() -> None:
    from edgemed.export.rounded_weights import _widened

    weights = np.random.default_rng(1).standard_normal((4, 256)).astype(np.float32)
    for name in ("q4_0", "q5_0", "q5_1", "q8_0", "iq4_nl", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k"):
        kind = BY_NAME[name]
        read = _widened(kind, round_rows(weights, kind))
        assert np.linalg.norm(read - weights) < 0.35 * np.linalg.norm(weights), name
    assert np.array_equal(_widened(BY_NAME["f32"], weights.view(np.uint8)), weights)
