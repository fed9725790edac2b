"""Adapters beside a base and merged into it: the engine computes what peft computes."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters import peft_logits, write_lora
from checkpoints import ARCHITECTURES, write_checkpoint

from edgemed.core.errors import EdgemedError, ModelRefused
from edgemed.core.tensor_types import F16, F32
from edgemed.export import adapter as adapter_module
from edgemed.export.adapter import export_adapter, export_separate, fit_adapter
from edgemed.export.compress import Compression
from edgemed.export.engine_question import ask_engine
from edgemed.export.gguf import export_gguf
from edgemed.models.adapter import MERGED_KEY, check_adapter, check_fits
from edgemed.models.gguf import check_gguf

pytestmark = [
    pytest.mark.needs_torch,
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*"),  # peft asks it by an older name
]
pytest.importorskip("llama_cpp")
pytest.importorskip("peft")

PROMPT = [5, 9, 3, 200, 17, 5, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39]
CLOSE = 1e-3
"""Standard deviations: another order of summation in float32."""


def engine_logits(path: Path, adapter: Path | None = None) -> Any:
    place = path.with_suffix(".logits")
    question: dict[str, Any] = {"path": str(path), "prompt": PROMPT, "logits": str(place)}
    answer = ask_engine(question if adapter is None else question | {"adapter": str(adapter)})
    return np.fromfile(place, np.float32).reshape(len(PROMPT), answer["n_vocab"])


def difference(one: Any, other: Any) -> float:
    """Largest difference of a logit, in standard deviations."""
    return float(np.abs(one - other).max() / other.std())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_base_and_adapter_compute_what_peft_computes_and_so_does_the_merged_file(
    checkpoint: Any, tmp_path: Path, architecture: str
) -> None:
    base, lora = checkpoint(architecture), write_lora(tmp_path / "lora", checkpoint(architecture))
    export_gguf(base, tmp_path / "base.gguf", recipe="f32")
    report = export_adapter(fit_adapter(base, lora), tmp_path / "base.gguf", tmp_path / "lora.gguf", kind=F32)
    export_gguf(base, tmp_path / "merged.gguf", recipe="f32", merge=lora)
    expected = peft_logits(base, lora, PROMPT)
    plain = engine_logits(tmp_path / "base.gguf")
    limit = 1e-2 if architecture == "gemma3" else CLOSE  # the engine looks GELU up in a float16 table
    assert difference(engine_logits(tmp_path / "base.gguf", tmp_path / "lora.gguf"), expected) < limit
    assert difference(engine_logits(tmp_path / "merged.gguf"), expected) < limit
    assert difference(plain, expected) > 0.1  # the adapter does change something
    assert report.logits.available
    assert report.logits.max_difference <= report.logits.limit


@pytest.mark.parametrize(
    "settings",
    [
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.down_proj": 7}, "alpha_pattern": {"v_proj": 3}},
        {"rank_pattern": {"k_proj": 9}, "use_rslora": True, "lora_alpha": 5},
        {"target_modules": ["k_proj", "up_proj"]},
    ],
    ids=["rslora", "ranks and alphas", "ranks with rslora", "few modules"],
)
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_every_scale_and_rank_is_carried_over(
    checkpoint: Any, tmp_path: Path, architecture: str, settings: dict[str, Any]
) -> None:
    base, lora = checkpoint(architecture), write_lora(tmp_path / "lora", checkpoint(architecture), **settings)
    export_gguf(base, tmp_path / "base.gguf", recipe="f32")
    export_adapter(fit_adapter(base, lora), tmp_path / "base.gguf", tmp_path / "lora.gguf", kind=F32)
    export_gguf(base, tmp_path / "merged.gguf", recipe="f32", merge=lora)
    expected = peft_logits(base, lora, PROMPT)
    assert difference(engine_logits(tmp_path / "base.gguf", tmp_path / "lora.gguf"), expected) < CLOSE
    assert difference(engine_logits(tmp_path / "merged.gguf"), expected) < CLOSE


@pytest.mark.parametrize("recipe", ["q8_0", "q4_0"])
def test_a_rounded_base_with_its_adapter_is_verified(checkpoint: Any, tmp_path: Path, recipe: str) -> None:
    base, lora = checkpoint("llama"), write_lora(tmp_path / "lora", checkpoint("llama"), size=0.1)
    wanted = Compression(recipe, calibration="none")
    report = export_separate(base, tmp_path / "base.gguf", wanted, lora, tmp_path / "lora.gguf")
    assert report.base is not None
    assert report.adapter.logits.available
    assert report.adapter.logits.reference == "rounded parent"
    assert report.adapter.logits.max_difference < 0.4
    merged = export_gguf(base, tmp_path / "merged.gguf", recipe=recipe, merge=lora)
    assert merged.logits.available
    with pytest.raises(ModelRefused, match="merged into it already"):
        check_fits(check_adapter(tmp_path / "lora.gguf"), check_gguf(tmp_path / "merged.gguf"))
    again = export_separate(base, tmp_path / "base.gguf", wanted, lora, tmp_path / "again.gguf")
    assert again.base is None  # it lay there already
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "lora.gguf").read_bytes()


def test_a_merged_file_in_the_place_of_the_base_is_not_taken_for_it(checkpoint: Any, tmp_path: Path) -> None:
    base, lora = checkpoint("qwen2"), write_lora(tmp_path / "lora", checkpoint("qwen2"), size=0.1)
    export_gguf(base, tmp_path / "base.gguf", recipe="f16", merge=lora)
    report = export_separate(base, tmp_path / "base.gguf", Compression("f16"), lora, tmp_path / "lora.gguf")
    assert report.base is not None
    assert MERGED_KEY not in check_gguf(tmp_path / "base.gguf").metadata


def test_a_forgotten_permutation_of_the_adapter_is_caught_before_the_file_appears(
    checkpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, lora = checkpoint("llama"), write_lora(tmp_path / "lora", checkpoint("llama"))
    export_gguf(base, tmp_path / "base.gguf", recipe="f32")
    monkeypatch.setattr(adapter_module, "interleave_heads", lambda rows, n_heads: rows)
    with pytest.raises(ModelRefused, match="computes something else"):
        export_adapter(fit_adapter(base, lora), tmp_path / "base.gguf", tmp_path / "lora.gguf")
    assert not (tmp_path / "lora.gguf").exists()


def test_an_adapter_of_another_base_is_refused_with_the_numbers_before_any_work(
    checkpoint: Any, tmp_path: Path
) -> None:
    wider = write_checkpoint(tmp_path / "wider", "qwen2", intermediate_size=192)
    lora = write_lora(tmp_path / "lora", wider)
    base, output = checkpoint("qwen2"), tmp_path / "out.gguf"
    said = "another base.*192 x 64 in the adapter and 96 x 64"
    with pytest.raises(ModelRefused, match=said):
        export_gguf(base, output, recipe="f16", merge=lora)
    with pytest.raises(ModelRefused, match=said):
        export_separate(base, output, Compression("f16"), lora, tmp_path / "lora.gguf")
    assert not list(tmp_path.glob("*.gguf"))


def test_an_adapter_with_layers_that_the_base_lacks_is_refused(checkpoint: Any, tmp_path: Path) -> None:
    deeper = write_checkpoint(tmp_path / "deeper", "qwen2", num_hidden_layers=3)
    lora = write_lora(tmp_path / "lora", deeper)
    with pytest.raises(ModelRefused, match=r"the base has no model\.layers\.2"):
        fit_adapter(checkpoint("qwen2"), lora)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias is all"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa_niter_4"}, "changed weights of the base"),
        ({"peft_type": "IA3"}, "peft_type"),
        ({"r": 5}, "the configuration says rank 5"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
    ],
)
def test_what_cannot_be_carried_over_is_named(
    checkpoint: Any, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    lora = write_lora(tmp_path / "lora", checkpoint("qwen2"))
    place = lora / "adapter_config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | change))
    with pytest.raises(ModelRefused, match=said):
        fit_adapter(checkpoint("qwen2"), lora)


def test_pickled_and_missing_weights_are_refused(checkpoint: Any, tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "lora", checkpoint("qwen2"))
    (lora / "adapter_model.safetensors").rename(lora / "adapter_model.bin")
    with pytest.raises(ModelRefused, match="pickled"):
        fit_adapter(checkpoint("qwen2"), lora)
    with pytest.raises(ModelRefused, match=r"no adapter_config\.json"):
        fit_adapter(checkpoint("qwen2"), tmp_path)


def test_the_adapter_file_says_what_it_is(checkpoint: Any, tmp_path: Path) -> None:
    base = checkpoint("llama")
    lora = write_lora(tmp_path / "lora", base, rank_pattern={"q_proj": 2})
    export_gguf(base, tmp_path / "base.gguf", recipe="q8_0")
    report = export_adapter(fit_adapter(base, lora), tmp_path / "base.gguf", tmp_path / "lora.gguf", kind=F16)
    found = check_adapter(tmp_path / "lora.gguf")
    assert (found.architecture, found.base) == ("llama", report.base_digest)
    assert (report.n_matrices, report.smallest_rank, report.largest_rank) == (14, 2, 4)
    assert found.tensor_bytes == 2 * sum(m.rank * (m.n_in + m.n_out) for m in found.matrices)
    assert check_gguf(tmp_path / "base.gguf").metadata["general.type"] == "model"


def test_nan_in_an_adapter_is_refused(checkpoint: Any, tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "lora", checkpoint("qwen2"))
    place = lora / "adapter_model.safetensors"
    raw = bytearray(place.read_bytes())
    raw[-4:] = struct.pack("<f", float("nan"))
    place.write_bytes(raw)
    export_gguf(checkpoint("qwen2"), tmp_path / "base.gguf", recipe="f16")
    with pytest.raises(EdgemedError, match="no numbers"):
        export_adapter(fit_adapter(checkpoint("qwen2"), lora), tmp_path / "base.gguf", tmp_path / "lora.gguf")


def test_a_copied_adapter_gives_the_same_bytes(checkpoint: Any, tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "one" / "lora", checkpoint("qwen2"))
    shutil.copytree(lora, tmp_path / "two" / "lora")
    export_gguf(checkpoint("qwen2"), tmp_path / "base.gguf", recipe="q8_0")
    outputs = []
    for folder in ("one", "two"):
        fitting = fit_adapter(checkpoint("qwen2"), tmp_path / folder / "lora")
        export_adapter(fitting, tmp_path / "base.gguf", tmp_path / "out.gguf")
        outputs.append((tmp_path / "out.gguf").read_bytes())
    assert outputs[0] == outputs[1]
