"""Small random transformers models whose predictions differ from token to token, and texts for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

VOCABULARY = 61


@dataclass(frozen=True, slots=True)
class Text:
    """Token ids with weights."""

    ids: tuple[int, ...]
    weights: np.ndarray


def texts(seed: int = 0, lengths: tuple[int, ...] = (23, 9, 31, 2)) -> list[Text]:
    """Random texts; every third token or so counts more."""
    rng = np.random.default_rng(seed)
    return [
        Text(tuple(rng.integers(0, VOCABULARY, n).tolist()), rng.choice([1.0, 1.0, 5.0], n).astype(np.float32))
        for n in lengths
    ]


def model(family: str = "qwen2", *, tied: bool = True, seed: int = 0) -> Any:
    """Three layers of hidden size 32 in float32."""
    import torch
    import transformers

    torch.manual_seed(seed)
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 128,
        "tie_word_embeddings": tied,
        "initializer_range": 0.25,
        "pad_token_id": 0,
    }
    if family == "gemma2":
        config = transformers.Gemma2Config(**shape, sliding_window=8, final_logit_softcapping=5.0)
        return transformers.Gemma2ForCausalLM(config).eval()
    if family == "llama":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape)).eval()
    shape.pop("head_dim")
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**shape)).eval()


def matrices(of: Any) -> dict[str, np.ndarray]:
    """Its weight matrices by checkpoint name, copied."""
    return {name: p.detach().numpy().copy() for name, p in of.named_parameters() if p.ndim == 2}


def shaken(values: np.ndarray, share: float, seed: int = 0) -> np.ndarray:
    """The values with random errors of that share of their spread."""
    errors = np.random.default_rng(seed).normal(size=values.shape) * share * values.std()
    return (values + errors).astype(np.float32)
