"""Made-up models: valid for every reader, of any shape, in any mix of formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgemed.core.tensor_types import BY_NAME
from edgemed.engines.base import EngineConfig
from edgemed.engines.stopwatch import Measurement, Stopwatch
from edgemed.formats.blocks import dequantize
from edgemed.hardware import synthetic_model
from edgemed.hardware.synthetic_model import (
    MIXES,
    SyntheticShape,
    synthetic_bytes,
    synthetic_tensors,
    write_header_only,
    write_synthetic,
)
from edgemed.models.gguf import check_gguf, spec_from_gguf

SHAPE = SyntheticShape(2, 256, 512, 4, 2, 64, 1024, tied=False)
FORMATS = ("f16", "q8_0", "q6_k", "q5_k", "q4_k", "iq4_nl", "q4_0", "q3_k", "q2_k")


@pytest.mark.parametrize("name", FORMATS)
def test_weights_are_finite_and_as_large_as_a_trained_models(name: str) -> None:
    kind = BY_NAME[name]
    packed = np.frombuffer(synthetic_model._pool(kind, 1024), np.uint8).reshape(-1, kind.block_bytes)[:4096]
    values = packed.view(np.float16).astype(np.float32) if name == "f16" else dequantize(kind, packed)
    assert np.isfinite(values).all()
    assert values.std() == pytest.approx(1024**-0.5, rel=0.15)
    assert abs(values.mean()) < values.std() / 2


@pytest.mark.parametrize("name", ["q8_0", "q5_k"])
@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
def test_the_engine_runs_them(tmp_path: Path, name: str, architecture: str) -> None:
    shape = SyntheticShape(2, 256, 512, 4, 2, 64, 1024, tied=True, architecture=architecture)  # type: ignore[arg-type]
    path = write_synthetic(tmp_path / "made-up.gguf", shape, name)
    with Stopwatch(EngineConfig(model_path=path, context_length=256)) as watch:
        assert watch.measure(Measurement(prompt_tokens=8, answer_tokens=2, repetitions=1)).step_s


def test_formats_go_by_role_and_by_name(tmp_path: Path) -> None:
    formats = {**MIXES["nf4-int8"], "blk.1.ffn_down.weight": "q8_0"}
    spec = spec_from_gguf(check_gguf(write_synthetic(tmp_path / "mix.gguf", SHAPE, formats)))
    types = {tensor.name: tensor.type for tensor in spec.tensors}
    assert types["token_embd.weight"] == "q4_k"
    assert types["output.weight"] == "q6_k"
    assert types["blk.0.attn_k.weight"] == "q8_0"
    assert types["blk.0.ffn_down.weight"] == "iq4_nl"
    assert types["blk.1.ffn_down.weight"] == "q8_0"
    assert types["blk.0.attn_norm.weight"] == "f32"


def test_a_tied_embedding_has_the_heads_format() -> None:
    tied = SyntheticShape(1, 256, 256, 4, 4, 64, 512, tied=True)
    types = {tensor.name: tensor.type.name for tensor, _ in synthetic_tensors(tied, MIXES["nf4-int8"])}
    assert types["token_embd.weight"] == "q6_k"


def test_rows_that_no_block_fits_get_the_next_format() -> None:
    odd = SyntheticShape(1, 96, 320, 3, 1, 32, 512, tied=False)
    types = {tensor.name: tensor.type.name for tensor, _ in synthetic_tensors(odd, "q4_k")}
    assert types["blk.0.ffn_gate.weight"] == "q5_0"


def test_the_header_alone_describes_the_same_model(tmp_path: Path) -> None:
    whole = write_synthetic(tmp_path / "whole.gguf", SHAPE, "q6_k")
    header = write_header_only(tmp_path / "header.gguf", SHAPE, "q6_k")
    assert header.stat().st_size == whole.stat().st_size
    found = spec_from_gguf(check_gguf(header))
    assert found == spec_from_gguf(check_gguf(whole))
    assert found.weight_bytes == synthetic_bytes(SHAPE, "q6_k")


def test_a_true_7b_takes_no_room_as_a_header(tmp_path: Path) -> None:
    shape = SyntheticShape(28, 3584, 18944, 28, 4, 128, 152064, tied=False)
    path = write_header_only(tmp_path / "7b.gguf", shape, "q8_0")
    assert path.stat().st_size > 8e9
    assert path.stat().st_blocks * 512 < 20e6
    assert spec_from_gguf(check_gguf(path)).n_parameters == pytest.approx(7.6e9, rel=0.01)


def test_an_interrupted_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic_model, "_values", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_synthetic(tmp_path / "half.gguf", SHAPE, "q8_0")
    assert not list(tmp_path.iterdir())


def test_a_format_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="q9_9 is no format"):
        synthetic_tensors(SHAPE, "q9_9")
