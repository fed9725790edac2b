"""Divergence by replaying layers: against running the changed model from its first token, in float64."""

from __future__ import annotations

import numpy as np
import pytest
from small_models import Text, matrices, model, shaken, texts

from edgemed.core.errors import EdgemedError, UsageError

pytest.importorskip("torch")
pytest.importorskip("transformers")
import torch

from edgemed.quantize.layer_replay import LayerReplay, divergence_of


def whole_divergence(parent: object, child: object, samples: list[Text]) -> tuple[float, float]:
    """KL weighted and plain, text by text, without cache or padding, in float64."""
    losses, weights = [], []
    for text in samples:
        ids = torch.tensor([text.ids])
        with torch.inference_mode():
            before, after = (m(input_ids=ids, use_cache=False).logits[0, :-1].double() for m in (parent, child))
        p = before.softmax(-1)
        losses.append((p * (before.log_softmax(-1) - after.log_softmax(-1))).sum(-1).numpy())
        weights.append(text.weights[1:])
    lost, weight = np.concatenate(losses), np.concatenate(weights)
    return float((lost * weight).sum() / weight.sum()), float(lost.mean())


@pytest.mark.parametrize("family", ["qwen2", "llama", "gemma2"])
@pytest.mark.parametrize("tied", [True, False])
def test_every_tensor_gives_what_a_whole_run_gives(family: str, tied: bool) -> None:
    parent, samples = model(family, tied=tied), texts()
    replay = LayerReplay(parent, samples, batch_tokens=50)
    for name, values in matrices(parent).items():
        changed = shaken(values, 0.1)
        child = model(family, tied=tied)
        child.get_parameter(name).data = torch.from_numpy(changed)
        found = replay.divergence({name: changed})
        weighted, plain = whole_divergence(parent, child, samples)
        assert found.weighted == pytest.approx(weighted, rel=1e-3), name
        assert found.plain == pytest.approx(plain, rel=1e-3), name
        assert found.weighted > 1e-6


def test_several_tensors_at_once_give_what_a_whole_run_gives() -> None:
    parent, samples = model(), texts()
    changed = {name: shaken(values, 0.1) for name, values in matrices(parent).items() if "v_proj" in name}
    child = model()
    for name, values in changed.items():
        child.get_parameter(name).data = torch.from_numpy(values)
    found = LayerReplay(parent, samples).divergence(changed)
    assert found.weighted == pytest.approx(whole_divergence(parent, child, samples)[0], rel=1e-3)


def test_unchanged_weights_lose_nothing_at_all() -> None:
    parent = model()
    replay = LayerReplay(parent, texts())
    for name, values in matrices(parent).items():
        assert replay.divergence({name: values}).weighted == 0


def test_layers_before_the_changed_one_do_not_run() -> None:
    parent = model()
    replay = LayerReplay(parent, texts())
    runs = [0, 0, 0]
    for number, layer in enumerate(parent.model.layers):
        layer.register_forward_hook(lambda *_, number=number: runs.__setitem__(number, runs[number] + 1))
    replay.divergence({"model.layers.1.mlp.up_proj.weight": np.zeros((64, 32), np.float32)})
    assert runs == [0, 1, 1]


def test_predictions_of_tokens_without_weight_do_not_count() -> None:
    parent, (text, *_) = model(), texts()
    name, values = "model.layers.0.mlp.up_proj.weight", matrices(parent)["model.layers.0.mlp.up_proj.weight"]
    changed = {name: shaken(values, 0.1)}
    only = np.zeros(len(text.ids), np.float32)
    only[7] = 3
    first = only.copy()
    first[0] = 100  # nothing predicts the first token
    alone = LayerReplay(parent, [Text(text.ids[:8], only[:8])]).divergence(changed)
    assert LayerReplay(parent, [Text(text.ids, only)]).divergence(changed).weighted == pytest.approx(
        alone.weighted, rel=1e-4
    )
    assert LayerReplay(parent, [Text(text.ids, first)]).divergence(changed).weighted == pytest.approx(
        alone.weighted, rel=1e-4
    )


def test_the_parent_has_its_own_weights_again_also_after_an_error() -> None:
    parent = model()
    before = matrices(parent)
    replay = LayerReplay(parent, texts())
    name = "model.layers.2.self_attn.q_proj.weight"
    replay.divergence({name: before[name] * 2})
    with pytest.raises(EdgemedError, match=r"layers.2.self_attn.q_proj.* no finite logits"):
        replay.divergence({name: np.full_like(before[name], np.nan)})
    with pytest.raises(ValueError, match="its replacement"):
        replay.divergence({name: before[name][:3]})
    assert all(np.array_equal(values, before[key]) for key, values in matrices(parent).items())


def test_a_model_in_another_type_is_refused() -> None:
    with pytest.raises(UsageError, match="bfloat16"):
        LayerReplay(model().to(torch.bfloat16), texts())


@pytest.mark.parametrize("samples", [[], [Text((4,), np.ones(1, np.float32))], [Text((4, 5), np.zeros(2, np.float32))]])
def test_texts_without_a_prediction_are_refused(samples: list[Text]) -> None:
    with pytest.raises(UsageError, match="no token whose prediction counts"):
        LayerReplay(model(), samples)


@pytest.mark.parametrize("change", [0.0, 1e-6, 1e-4, 1e-2, 0.3, 3.0, 30.0, 300.0])
def test_divergence_has_float64s_digits_whatever_its_size(change: float) -> None:
    rng = np.random.default_rng(5)
    parent = torch.from_numpy(rng.normal(size=(40, 500)).astype(np.float32) * 4 + 20)
    child = parent + torch.from_numpy(rng.normal(size=(40, 500)).astype(np.float32) * change) - 7
    p, q = parent.double(), child.double()
    exact = (p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).sum(-1)
    found = divergence_of(parent, parent.softmax(-1), child)
    assert bool((found >= 0).all())
    # logits near 20 have steps of 2e-6; half the square of that is lost
    np.testing.assert_allclose(found.double(), exact, rtol=1e-4, atol=5e-12)
