"""llama.cpp's importance matrix, written and read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgemed.core.errors import ModelRefused
from edgemed.quantize.imatrix import Importance, is_imatrix, read_imatrix, write_imatrix

gguf = pytest.importorskip("gguf")


def some() -> dict[str, Importance]:
    rng = np.random.default_rng(0)
    return {
        f"blk.{layer}.{part}.weight": Importance(rng.random(64, np.float32) + np.float32(0.01), 1500.0)
        for layer in range(2)
        for part in ("attn_q", "ffn_down")
    }


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "some.imatrix.gguf"
    write_imatrix(path, some(), "the table of facts")
    assert is_imatrix(path)
    read = read_imatrix(path)
    assert read.keys() == some().keys()
    for name, entry in some().items():
        np.testing.assert_allclose(read[name].mean_squares, entry.mean_squares, rtol=1e-6)
        assert read[name].n_tokens == 1500


def test_rounding_by_what_was_read_differs_from_plain_rounding(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    from edgemed.core.tensor_types import BY_NAME
    from edgemed.engines.rounding import round_rows

    weights = np.random.default_rng(1).normal(size=(16, 64)).astype(np.float32)
    path = tmp_path / "m.gguf"
    write_imatrix(path, some(), "facts")
    entry = read_imatrix(path)["blk.0.attn_q.weight"]
    plain = round_rows(weights, BY_NAME["iq4_nl"])
    assert not np.array_equal(round_rows(weights, BY_NAME["iq4_nl"], entry.mean_squares), plain)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_statistics_that_say_nothing_are_refused_by_name(tmp_path: Path, value: float) -> None:
    broken = {**some(), "blk.1.ffn_down.weight": Importance(np.full(64, value, np.float32), 10.0)}
    write_imatrix(tmp_path / "m.gguf", broken, "facts")
    with pytest.raises(ModelRefused, match=r"blk\.1\.ffn_down"):
        read_imatrix(tmp_path / "m.gguf")


def test_a_model_is_no_importance_matrix(tmp_path: Path) -> None:
    from tiny_models import write_tiny_qwen2

    path = write_tiny_qwen2(tmp_path / "tiny.gguf")
    assert not is_imatrix(path)
    with pytest.raises(ModelRefused, match="no importance matrix"):
        read_imatrix(path)


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_imatrix(path, some(), "facts")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelRefused):
        read_imatrix(path)
