"""The streamed estimate: the figures of the one with the model in memory, from a checkpoint read layer by layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checkpoints import write_checkpoint
from small_models import Text, shaken

from edgemed.core.errors import UsageError
from edgemed.models.checkpoint import open_checkpoint

pytest.importorskip("torch")
pytest.importorskip("transformers")
import torch

from edgemed.quantize.second_order import estimated_sensitivity, input_moments, output_gradients
from edgemed.quantize.sensitivity import SensitivityInputs
from edgemed.quantize.streamed_sensitivity import streamed_sensitivity

INPUTS = SensitivityInputs(checkpoint="c", texts="t", rounding="random", measure="second_order", seed=3)
SHARES = {"coarse": 0.05, "fine": 0.005}


def one_text(n_vocab: int) -> Text:
    rng = np.random.default_rng(2)
    ids = rng.integers(0, n_vocab, 40)
    return Text(tuple(ids.tolist()), rng.choice([1.0, 5.0], 40).astype(np.float32))


@pytest.mark.parametrize("architecture", ["qwen2", "llama", "gemma3"])
def test_costs_are_those_of_the_model_in_memory(architecture: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = write_checkpoint(tmp_path / "c", architecture)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    text = one_text(model.config.vocab_size)
    weights = {name: p.detach().numpy().copy() for name, p in model.named_parameters() if p.ndim == 2}
    formats = {name: tuple(SHARES) for name in weights}
    embedding = weights["model.embed_tokens.weight"]

    def rounded(name: str, kind: str) -> np.ndarray:
        return shaken(weights[name], SHARES[kind])

    def nearest(rows: np.ndarray, kind: str, name: str) -> np.ndarray:
        if name == "model.embed_tokens.weight" and len(rows) < len(embedding):  # the tokens that occur, rising
            return rounded(name, kind)[sorted(set(text.ids))]
        return rounded(name, kind)

    moments = {name: np.ascontiguousarray(np.diag(full)) for name, full in input_moments(model, [text]).items()}
    gradients = output_gradients(model, [text], draws=1, seed=3)
    expected = estimated_sensitivity(
        weights.__getitem__, lambda name: moments[name], gradients, formats, rounded, INPUTS, 40
    )
    found = streamed_sensitivity(open_checkpoint(folder), [text], formats, nearest, INPUTS)
    assert found.n_tokens == 40
    for row in expected.tensors:
        for cost in row.costs:
            assert found.cost(row.tensor, cost.format) == pytest.approx(cost.kl, rel=2e-3), row.tensor
            assert cost.kl > 0


def test_texts_without_a_prediction_are_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", "qwen2")
    with pytest.raises(UsageError, match="no token whose prediction counts"):
        streamed_sensitivity(open_checkpoint(folder), [], {}, lambda rows, *_: rows, INPUTS)
