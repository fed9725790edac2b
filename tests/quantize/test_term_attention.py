"""Attention to medical terms: attention that sees no difference has a ratio of 1, attention to terms alone more."""

from __future__ import annotations

import numpy as np
import pytest
from small_models import Text, model, texts

pytest.importorskip("torch")
pytest.importorskip("transformers")
import torch

from edgemed.quantize.allocation import Option
from edgemed.quantize.sensitivity import LayerAttention
from edgemed.quantize.term_attention import attention_to_terms, weighed_by_attention


def test_even_attention_has_a_ratio_of_one_in_every_head() -> None:
    even = model()
    for layer in even.model.layers:
        torch.nn.init.zeros_(layer.self_attn.q_proj.weight)
        torch.nn.init.zeros_(layer.self_attn.q_proj.bias)
    found = attention_to_terms(even, texts())
    assert [layer.layer for layer in found] == [0, 1, 2]
    for layer in found:
        np.testing.assert_allclose([layer.ratio, *layer.heads], 1, rtol=1e-5)


def test_shares_are_those_counted_by_hand() -> None:
    parent, (text, *_) = model(), texts()
    terms = np.flatnonzero(text.weights > 1)
    parent.set_attn_implementation("eager")
    with torch.inference_mode():
        weights = parent(input_ids=torch.tensor([text.ids]), output_attentions=True).attentions[1][0, 2].numpy()
    ratios = [
        weights[t, terms[terms <= t]].sum() / ((terms <= t).sum() / (t + 1))
        for t in range(len(text.ids))
        if (terms <= t).any()
    ]
    assert attention_to_terms(parent, [text])[1].heads[2] == pytest.approx(np.mean(ratios), rel=1e-5)


def test_the_model_keeps_its_own_attention() -> None:
    parent = model()
    before = parent.config._attn_implementation
    attention_to_terms(parent, texts())
    assert parent.config._attn_implementation == before == "sdpa"


def test_texts_without_terms_give_nothing() -> None:
    assert attention_to_terms(model(), [Text((1, 2, 3), np.ones(3, np.float32))]) == ()


def test_costs_are_multiplied_by_what_their_layer_pays_beside_the_mean() -> None:
    attention = [LayerAttention(layer=0, ratio=0.5, heads=()), LayerAttention(layer=1, ratio=1.5, heads=())]
    layers = {"a": 0, "b": 1, "head": None}
    options = [Option(tensor=name, format="q4_k", n_bytes=1, cost=1.0) for name in layers]
    assert [option.cost for option in weighed_by_attention(options, attention, layers)] == [0.5, 1.5, 1.0]
