import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import ARCHITECTURES, write_checkpoint
from edgemed_converters.plan import interleave_heads

from edgemed.core.errors import ModelRefused
from edgemed.core.progress import SilentProgress
from edgemed.core.records import NotAvailable
from edgemed.export import gguf as export_module
from edgemed.export.engine_question import ask_engine
from edgemed.export.gguf import export_gguf
from edgemed.export.parent_logits import parent_logits
from edgemed.export.report import ExportReport
from edgemed.models.checkpoint import open_checkpoint
from edgemed.models.gguf import check_gguf

pytestmark = pytest.mark.needs_torch
pytest.importorskip("llama_cpp")

SHARED = Path(__file__).parents[3] / "shared" / "data"
STORIES = SHARED / "stories260k-llama-hf"
STORY_BEGIN = "Once upon a time"
STORY = f"{STORY_BEGIN}, there was a little girl named Lily. She loved to play outside in the park."

FREQUENCIES = {"rope_theta": 10_000.0}
LONG = {"short_factor": [1 + i / 10 for i in range(8)], "long_factor": [2 + i / 5 for i in range(8)]}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "linear rope": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, **FREQUENCIES}}),
    "llama 3 rope": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
                **FREQUENCIES,
            }
        },
    ),
    "biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "yarn": (
        "qwen2",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 32,
                **FREQUENCIES,
            }
        },
    ),
    "yarn with its own attention factor": (
        "qwen2",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "attention_factor": 1.3,
                "original_max_position_embeddings": 32,
                **FREQUENCIES,
            }
        },
    ),
    "own head": ("qwen2", {"tie_word_embeddings": False}),
    "short rotary factors": (
        "phi3",
        {"rope_parameters": {"rope_type": "longrope", **LONG, **FREQUENCIES}, "original_max_position_embeddings": 256},
    ),
    "long rotary factors": (
        "phi3",
        {"rope_parameters": {"rope_type": "longrope", **LONG, **FREQUENCIES}, "original_max_position_embeddings": 32},
    ),
    "partly turned heads": ("phi3", {"partial_rotary_factor": 0.75}),
    "sliding window": ("phi3", {"sliding_window": 16}),
    "scaled global layers and soft cap": (
        "gemma3",
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            },
            "final_logit_softcapping": 30.0,
        },
    ),
}


def agrees(report: ExportReport) -> None:
    assert report.tokens.identical == report.tokens.n_strings == 1000
    assert not isinstance(report.logits, NotAvailable)
    assert report.logits.max_difference <= report.logits.limit
    assert report.logits.n_positions >= 16


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_exported_model_computes_what_its_parent_computes(
    checkpoint: Any, tmp_path: Path, architecture: str
) -> None:
    report = export_gguf(checkpoint(architecture), tmp_path / "out.gguf", recipe="f32")
    agrees(report)
    assert not isinstance(report.logits, NotAvailable)
    assert report.logits.top1_agreement == 1
    header = check_gguf(tmp_path / "out.gguf")
    assert header.architecture == {"mistral": "llama"}.get(architecture, architecture)
    assert report.file_bytes == header.file_bytes


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_of_a_configuration_are_carried_over(tmp_path: Path, name: str) -> None:
    pytest.importorskip("torch")
    architecture, changes = VARIANTS[name]
    parent = write_checkpoint(tmp_path / "parent", architecture, **changes)
    agrees(export_gguf(parent, tmp_path / "out.gguf", recipe="f32"))


@pytest.mark.parametrize("recipe", ["f16", "bf16", "q8_0"])
def test_every_recipe_is_close_to_the_parent(checkpoint: Any, tmp_path: Path, recipe: str) -> None:
    report = export_gguf(checkpoint("qwen2"), tmp_path / "out.gguf", recipe=recipe)
    agrees(report)
    assert report.bytes_per_type.keys() == {recipe, "f32"}


def test_sharded_and_single_checkpoints_give_the_same_bytes(checkpoint: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    single, sharded = checkpoint("llama"), tmp_path / "llama"
    shutil.copytree(single, sharded)
    tensors = load_file(sharded / "model.safetensors")
    (sharded / "model.safetensors").unlink()
    places = {}
    for number, names in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2])):
        shard = f"model-{number + 1:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in names}, sharded / shard)
        places |= dict.fromkeys(names, shard)
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    outputs = []
    for source in (single, sharded):
        export_gguf(source, tmp_path / "out.gguf", recipe="q8_0")
        outputs.append((tmp_path / "out.gguf").read_bytes())
    assert outputs[0] == outputs[1]


def test_an_export_can_be_repeated_byte_for_byte(checkpoint: Any, tmp_path: Path) -> None:
    first, second = tmp_path / "first.gguf", tmp_path / "second.gguf"
    export_gguf(checkpoint("qwen2"), first, recipe="q8_0")
    export_gguf(checkpoint("qwen2"), second, recipe="q8_0")
    assert first.read_bytes() == second.read_bytes()


def test_the_format_s_own_reader_finds_the_same_weights(checkpoint: Any, tmp_path: Path) -> None:
    import gguf

    export_gguf(checkpoint("qwen2"), tmp_path / "out.gguf", recipe="f32")
    found = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    opened = open_checkpoint(checkpoint("qwen2"))
    with opened.reader() as reader:
        embedding = reader.float32(opened.tensors["model.embed_tokens.weight"])
        down = reader.float32(opened.tensors["model.layers.1.mlp.down_proj.weight"])
    assert np.array_equal(found["token_embd.weight"], embedding)
    assert np.array_equal(found["blk.1.ffn_down.weight"], down)


def test_heads_are_interleaved_as_the_formula_says() -> None:
    rows = np.arange(2 * 4).reshape(8, 1)  # two heads of four: halves 0 1 | 2 3 and 4 5 | 6 7
    assert interleave_heads(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_a_forgotten_permutation_is_caught_before_the_file_appears(
    checkpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgemed.export import stream

    monkeypatch.setattr(stream, "interleave_heads", lambda rows, n_heads: rows)
    with pytest.raises(ModelRefused, match="computes something else"):
        export_gguf(checkpoint("llama"), tmp_path / "out.gguf", recipe="f16")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("architecture", ["gemma3", "qwen2"])
def test_the_parent_run_layer_by_layer_equals_the_parent_run_whole(checkpoint: Any, architecture: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    prompt = [5, 9, 3, 200, 17, 5, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43]
    whole = AutoModelForCausalLM.from_pretrained(
        checkpoint(architecture), dtype=torch.float32, attn_implementation="eager", local_files_only=True
    )
    with torch.inference_mode():
        expected = whole(torch.tensor([prompt])).logits[0].numpy()
    got = parent_logits(open_checkpoint(checkpoint(architecture)), prompt, SilentProgress())
    assert np.abs(got - expected).max() < 1e-5 * expected.std()


def test_of_the_parent_one_layer_at_a_time_has_weights(checkpoint: Any) -> None:
    import torch

    layers: list[Any] = []

    def before(module: Any, _arguments: Any) -> None:
        if type(module).__name__ == "Qwen2DecoderLayer":
            assert all(parameter.device.type == "cpu" for parameter in module.parameters())
            assert all(parameter.device.type == "meta" for layer in layers for parameter in layer.parameters())
            layers.append(module)

    handle = torch.nn.modules.module.register_module_forward_pre_hook(before)
    try:
        parent_logits(open_checkpoint(checkpoint("qwen2")), [1, 2, 3], SilentProgress())
    finally:
        handle.remove()
    assert len(layers) == 2


def test_without_torch_the_logits_are_not_available_and_say_so(
    checkpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgemed.export.parent_logits.find_spec", lambda name: None)
    report = export_gguf(checkpoint("qwen2"), tmp_path / "out.gguf", recipe="f16")
    assert isinstance(report.logits, NotAvailable)
    assert "edgemed[workstation]" in report.logits.reason
    assert report.tokens.identical == 1000


def test_conversion_and_verification_are_timed_apart(checkpoint: Any, tmp_path: Path) -> None:
    report = export_gguf(checkpoint("qwen2"), tmp_path / "out.gguf", recipe="f16")
    assert 0 < report.conversion_seconds < report.verification_seconds


@pytest.mark.skipif(not STORIES.is_dir(), reason="stories260k is not in ../shared/data")
def test_a_real_model_tells_its_story(tmp_path: Path) -> None:
    report = export_gguf(STORIES, tmp_path / "stories.gguf", recipe="q8_0")
    agrees(report)
    assert report.licence == "mit"
    assert {fallback.tensor for fallback in report.fallbacks} == {f"blk.{n}.ffn_down.weight" for n in range(5)}
    assert {(fallback.wanted, fallback.got) for fallback in report.fallbacks} == {("q8_0", "f16")}
    assert "172" in report.fallbacks[0].reason
    assert _is_greedy(tmp_path / "stories.gguf", STORY)


def _is_greedy(path: Path, text: str) -> bool:
    """Whether the model's most likely token after each beginning of `text` is the one that follows."""
    ids = [1, *ask_engine({"path": str(path), "strings": [text]})["ids"][0]]
    given = 1 + len(ask_engine({"path": str(path), "strings": [STORY_BEGIN]})["ids"][0])
    place = path.with_suffix(".logits")
    answer = ask_engine({"path": str(path), "prompt": ids, "logits": str(place)})
    best = np.fromfile(place, np.float32).reshape(len(ids), answer["n_vocab"]).argmax(axis=1)
    return best[given - 1 : -1].tolist() == ids[given:]


def test_whatever_fails_while_verifying_leaves_no_file_and_keeps_the_older(
    checkpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.gguf"
    output.write_bytes(b"GGUF an older export")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export_module, "verify_tokens", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_gguf(checkpoint("qwen2"), output, recipe="f16")
    assert list(tmp_path.iterdir()) == [output]
    assert output.read_bytes() == b"GGUF an older export"


def test_a_parent_too_large_for_this_machine_is_not_run(
    checkpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgemed.export.parent_logits.LIBRARIES_BYTES", 2**60)
    report = export_gguf(checkpoint("qwen2"), tmp_path / "out.gguf", recipe="f16")
    assert isinstance(report.logits, NotAvailable)
    assert "one layer of the parent needs" in report.logits.reason


def test_a_parent_that_transformers_refuses_is_not_run(checkpoint: Any, tmp_path: Path) -> None:
    source = tmp_path / "parent"
    shutil.copytree(checkpoint("qwen2"), source)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"initializer_range": "wide"}))
    report = export_gguf(source, tmp_path / "out.gguf", recipe="f16")
    assert isinstance(report.logits, NotAvailable)
    assert "transformers does not accept" in report.logits.reason


def test_a_broken_chat_template_is_noted(checkpoint: Any, tmp_path: Path) -> None:
    source = tmp_path / "parent"
    shutil.copytree(checkpoint("qwen2"), source)
    (source / "chat_template.jinja").write_text("{% for")
    report = export_gguf(source, tmp_path / "out.gguf", recipe="f16")
    assert any("chat template cannot be rendered" in note for note in report.notes)


def test_an_older_configuration_gives_the_same_file(checkpoint: Any, tmp_path: Path) -> None:
    """transformers 4 wrote rope_theta, rope_local_base_freq and sliding_window_pattern at the top level."""
    newer, older = checkpoint("gemma3"), tmp_path / "gemma3"
    shutil.copytree(newer, older)
    config = json.loads((older / "config.json").read_text())
    for key in ("rope_parameters", "layer_types", "_sliding_window_pattern"):
        config.pop(key, None)
    config |= {"rope_theta": 1e6, "rope_local_base_freq": 10_000.0, "sliding_window_pattern": 6, "rope_scaling": None}
    (older / "config.json").write_text(json.dumps(config))
    for source in (newer, older):
        export_gguf(source, tmp_path / f"{source.parent.name}.gguf", recipe="f32")
    files = sorted(tmp_path.glob("*.gguf"))
    assert len(files) == 2
    assert files[0].read_bytes() == files[1].read_bytes()


def test_role_tokens_that_swallow_blanks_do_so_in_the_engine(tmp_path: Path) -> None:
    """Phi-3's do; the engine knows it by the model's name, so the export gives it one that says so."""
    pytest.importorskip("torch")
    parent = write_checkpoint(tmp_path / "parent", "phi3")
    tokenizer = json.loads((parent / "tokenizer.json").read_text())
    size = len(tokenizer["model"]["vocab"])
    for number, token in enumerate(("<|endoftext|>", "<|user|>", "<|end|>")):
        entry = {"id": size + number, "content": token, "special": True, "rstrip": token != "<|endoftext|>"}
        tokenizer["added_tokens"].append(entry | dict.fromkeys(("single_word", "lstrip", "normalized"), False))
    tokenizer["added_tokens"][2]["rstrip"] = True
    (parent / "tokenizer.json").write_text(json.dumps(tokenizer))
    agrees(export_gguf(parent, tmp_path / "out.gguf", recipe="f16"))
    assert check_gguf(tmp_path / "out.gguf").metadata["general.name"] == "parent (phi-3)"
