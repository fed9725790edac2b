import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from checkpoints import write_safetensors

from edgemed.cli.export import _output_file, rows_of
from edgemed.core.records import NotAvailable
from edgemed.export.report import ExportReport, Fallback, TokenCheck

SHARED = Path(__file__).parents[3] / "shared" / "data"
STORIES = SHARED / "stories260k-llama-hf"


def edgemed(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgemed.cli.app", "export", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200, check=False)


@pytest.mark.skipif(not STORIES.is_dir(), reason="stories260k is not in ../shared/data")
def test_json_is_the_report_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    done = edgemed(STORIES, "--target", "gguf", "--recipe", "q8_0", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    output = tmp_path / "stories260k-llama-hf-q8_0.gguf"
    assert Path(report["output"]) == output
    assert report["file_bytes"] == output.stat().st_size
    assert report["tokens"]["identical"] == 1000
    assert len(report["fallbacks"]) == 5
    assert "Converting" in done.stderr


@pytest.mark.needs_torch
@pytest.mark.timeout(300)  # torch, peft and transformers are imported twice
def test_a_separate_adapter_lies_beside_its_base_and_both_are_told(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    pytest.importorskip("peft")
    from adapters import write_lora
    from checkpoints import write_checkpoint

    base = write_checkpoint(tmp_path / "base", "qwen2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's own
        write_lora(tmp_path / "heart", base)
    done = edgemed(
        "base", "--recipe", "f16", "--adapter", "heart", "--adapter-mode", "separate", "--json", folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert Path(report["base"]["output"]).name == "base-f16.gguf"
    assert Path(report["adapter"]["output"]).name == "base-heart.lora.gguf"
    assert report["adapter"]["logits"]["max_difference"] <= report["adapter"]["logits"]["limit"]
    assert {path.name for path in tmp_path.glob("*.gguf")} == {"base-f16.gguf", "base-heart.lora.gguf"}


def test_a_merged_model_is_called_after_base_and_adapter() -> None:
    assert _output_file(None, Path("base"), "f16", Path("adapters/heart")) == Path("base-heart-f16.gguf")
    assert _output_file(None, Path("base"), "f16") == Path("base-f16.gguf")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("nowhere",), 2, "no folder"),
        (("parent", "--target", "onnx"), 2, "not available yet; now: gguf"),
        (("parent", "--target", "tflite"), 2, "no target"),
        (("parent", "--recipe", "mine.toml"), 2, "mine.toml cannot be used: rules.0.format"),
        (("parent", "--recipe", "none.toml"), 2, "none.toml is no file"),
        (("parent", "--recipe", "q4"), 2, "iq4_nl, nf4-int8, q2_k, q4_0, q4_k_m, q8_0, or a file"),
        (("empty",), 5, "no checkpoint"),
        (("pickled",), 5, "pickled"),
        (("damaged",), 5, "damaged"),
        (("unknown",), 5, "LlamaForCausalLM"),
        ((), 2, "[model] path"),
    ],
)
def test_errors_are_sentences_with_the_contract_s_exit_code(
    tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    pytest.importorskip("llama_cpp")
    for name in ("parent", "empty", "pickled", "damaged", "unknown"):
        (tmp_path / name).mkdir()
        if name != "empty":
            (tmp_path / name / "config.json").write_text('{"architectures": ["Other"], "model_type": "other"}')
    (tmp_path / "mine.toml").write_text('name = "m"\ndescription = "M"\n[[rules]]\nroles = ["all"]\nformat = "q9"\n')
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"\x80")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"\xff" * 64)
    for name in ("parent", "unknown"):
        write_safetensors(tmp_path / name / "model.safetensors", {"x": ("F32", [1], bytes(4))})
    done = edgemed(*arguments, folder=tmp_path)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Next:" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.rglob("*.gguf*")) == []


@pytest.mark.skipif(not STORIES.is_dir(), reason="stories260k is not in ../shared/data")
def test_without_a_model_the_one_in_edgemed_toml_is_exported(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    (tmp_path / "edgemed.toml").write_text(f"[model]\npath = '{STORIES}'\n")
    done = edgemed("--recipe", "f16", "--output", tmp_path / "own.gguf", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "own.gguf").exists()
    assert "equal to the original's on 1000 of 1000 strings" in done.stdout


def test_a_recipe_s_sizes_and_fallbacks_are_shown_to_people() -> None:
    why = "rows of 896 are no multiple of q4_k's block of 256"
    fallbacks = [Fallback(tensor=f"blk.{n}.attn_q.weight", wanted="q4_k", got="q5_0", reason=why) for n in range(3)]
    report = ExportReport(
        source=Path("parent"),
        output=Path("parent-lean.gguf"),
        recipe="lean",
        recipe_digest="",
        architecture="qwen2",
        spec_digest="",
        licence="",
        file_bytes=5 * 2**20,
        n_tensors=9,
        bytes_per_type={"f32": 1024, "q4_k": 4 * 2**20},
        bytes_per_role={"ffn_down": 3 * 2**20, "norm": 1024},
        bits_per_weight=4.567,
        fallbacks=tuple(fallbacks),
        tokens=TokenCheck(n_strings=1000, n_tokens=5000, identical=1000),
        logits=NotAvailable(reason="torch is not installed"),
        notes=(),
        conversion_seconds=1.0,
        verification_seconds=1.0,
    )
    rows = dict(rows_of(report))
    assert rows["recipe"] == "lean"
    assert rows["size"] == "5 MiB in 9 tensors, 4.57 bits per weight"
    assert rows["by format"] == "q4_k 4 MiB, f32 1 KiB"
    assert rows["by role"] == "ffn_down 3 MiB, norm 1 KiB"
    assert rows["fallback"] == f"3 tensors are q5_0, not q4_k: {why}"


def test_a_file_made_by_one_s_own_recipe_is_named_after_it(tmp_path: Path) -> None:
    assert _output_file(None, tmp_path / "parent", "recipes/lean.toml") == Path("parent-lean.gguf")
    assert _output_file(tmp_path, tmp_path / "parent", "q4_k_m") == tmp_path / "parent-q4_k_m.gguf"
