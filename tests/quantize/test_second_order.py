"""The second-order estimate: its sums against loops, its gradients against closed forms, its order against measured."""

from __future__ import annotations

import numpy as np
import pytest
from small_models import matrices, model, shaken, texts

pytest.importorskip("torch")
pytest.importorskip("transformers")
import torch
from scipy.stats import spearmanr

from edgemed.quantize.layer_replay import LayerReplay
from edgemed.quantize.second_order import (
    estimated_sensitivity,
    input_moments,
    output_gradients,
    second_order_cost,
)
from edgemed.quantize.sensitivity import SensitivityInputs

INPUTS = SensitivityInputs(checkpoint="c", texts="t", rounding="random", measure="second_order", seed=0)


def test_the_cost_is_the_sum_it_is_said_to_be() -> None:
    rng = np.random.default_rng(1)
    lost, gradients = rng.normal(size=(5, 7)).astype(np.float32), rng.random(5).astype(np.float32)
    inputs = rng.normal(size=(100, 7)).astype(np.float32)
    moments = inputs.T @ inputs / 100
    by_hand = 0.5 * sum(gradients[r] * np.mean([(lost[r] @ x) ** 2 for x in inputs]) for r in range(5))
    assert second_order_cost(lost, moments, gradients) == pytest.approx(by_hand, rel=1e-5)
    diagonal = np.diag(np.diag(moments)).astype(np.float32)
    assert second_order_cost(lost, np.diag(moments), gradients) == pytest.approx(
        second_order_cost(lost, diagonal, gradients), rel=1e-5
    )


@pytest.mark.parametrize("tied", [True, False])
def test_gradients_at_the_head_are_the_variance_of_each_tokens_probability(tied: bool) -> None:
    parent, samples = model(tied=tied), texts()
    found = output_gradients(parent, samples, draws=100).rows["model.embed_tokens.weight" if tied else "lm_head.weight"]
    exact, weight = np.zeros(61), 0.0
    for text in samples:
        with torch.inference_mode():
            p = parent(input_ids=torch.tensor([text.ids])).logits[0, :-1].softmax(-1).double().numpy()
        exact += (text.weights[1:, None] * p * (1 - p)).sum(0)
        weight += text.weights[1:].sum()
    exact /= weight
    assert found.sum() == pytest.approx(exact.sum(), rel=0.05)  # 100 draws of 61 tokens
    assert np.corrcoef(found, exact)[0, 1] > 0.95


def test_input_moments_are_those_of_the_layers_inputs_without_padding() -> None:
    parent, samples = model(), texts()
    seen = []
    layer = parent.model.layers[1].mlp.down_proj
    hook = layer.register_forward_pre_hook(lambda _module, given: seen.append(given[0][0]))
    with torch.inference_mode():
        for text in samples:
            parent(input_ids=torch.tensor([text.ids]))
    hook.remove()
    inputs = torch.cat(seen).numpy()
    found = input_moments(parent, samples)
    np.testing.assert_allclose(
        found["model.layers.1.mlp.down_proj.weight"], inputs.T @ inputs / 65, rtol=1e-3, atol=1e-5
    )
    assert found.keys() == matrices(parent).keys()


@pytest.mark.parametrize("tied", [True, False])
def test_the_order_is_nearly_that_of_measured_divergences(tied: bool) -> None:
    parent, samples = model(tied=tied), texts(lengths=(60, 50, 40, 60, 60))
    weights = matrices(parent)
    shares = {"coarse": 0.06, "middle": 0.02, "fine": 0.006}
    gradients, moments = output_gradients(parent, samples), input_moments(parent, samples)
    estimate = estimated_sensitivity(
        weights.__getitem__,
        moments.__getitem__,
        gradients,
        {name: tuple(shares) for name in weights},
        lambda name, kind: shaken(weights[name], shares[kind]),
        INPUTS,
        270,
    )
    replay = LayerReplay(parent, samples)
    pairs = [
        (cost.kl, replay.divergence({row.tensor: shaken(weights[row.tensor], shares[cost.format])}).weighted)
        for row in estimate.tensors
        for cost in row.costs
    ]
    estimated, measured = np.array(pairs).T
    assert spearmanr(estimated, measured).statistic > 0.9
    ratio = np.log(estimated / measured)
    assert abs(float(np.median(ratio))) < np.log(2), np.exp(np.median(ratio))


def test_weights_want_gradients_again_and_have_none() -> None:
    parent = model()
    parent.lm_head.weight.requires_grad_(False)
    output_gradients(parent, texts(), draws=1)
    assert not parent.lm_head.weight.requires_grad
    assert parent.model.norm.weight.requires_grad
    assert all(parameter.grad is None for parameter in parent.parameters())


def test_the_same_seed_gives_the_same_gradients() -> None:
    one, two, other = (output_gradients(model(), texts(), draws=1, seed=seed).rows for seed in (3, 3, 4))
    name = "model.layers.0.mlp.up_proj.weight"
    assert np.array_equal(one[name], two[name])
    assert not np.array_equal(one[name], other[name])
