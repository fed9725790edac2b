"""How much attention each layer pays to medical terms: the method paper's analysis, layer by layer and head by head.

For every position that sees a term: the share of its attention that lands on tokens of terms, divided by their share of
the tokens it sees. 1 is attention blind to terms. The first tokens draw much attention whatever they are ("sinks"), so
ratios below 1 are common; layers are to be compared with each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from edgemed.core.progress import Progress, SilentProgress
from edgemed.quantize.allocation import Option
from edgemed.quantize.layer_replay import WeightedText
from edgemed.quantize.sensitivity import LayerAttention

ORDINARY = 1.0
"""Tokens of a larger weight are terms: doses, drugs, negations, contraindications."""


def attention_to_terms(
    model: Any, texts: Sequence[WeightedText], *, ordinary: float = ORDINARY, progress: Progress | None = None
) -> tuple[LayerAttention, ...]:
    """The ratio for every layer and head; () when no text has a term, or none that a later token sees.

    Runs the model once, text by text, with attention that gives its weights: (heads, n_tokens, n_tokens) a layer.
    """
    import torch

    totals: list[Any] = []
    count = 0
    with (
        torch.inference_mode(),
        _eager(model),
        (progress or SilentProgress()).task("Looking where attention goes", len(texts)) as task,
    ):
        for text in texts:
            task.advance()
            terms = torch.tensor([float(weight) > ordinary for weight in text.weights], device=model.device)
            share = terms.cumsum(0) / torch.arange(1, len(terms) + 1, device=model.device)
            sees = share > 0
            if not bool(sees.any()):
                continue
            ids = torch.tensor([list(text.ids)], device=model.device)
            layers = model.model(input_ids=ids, use_cache=False, output_attentions=True).attentions
            ratios = [(layer[0][:, :, terms].sum(-1) / share)[:, sees].sum(-1) for layer in layers]  # (heads,)
            totals = [before + new for before, new in zip(totals, ratios, strict=True)] if totals else ratios
            count += int(sees.sum())
    return tuple(
        LayerAttention(
            layer=number,
            ratio=float(total.mean()) / count,
            heads=tuple(float(value) / count for value in total),
        )
        for number, total in enumerate(totals)
    )


def weighed_by_attention(
    options: Sequence[Option], attention: Sequence[LayerAttention], layer_of: dict[str, int | None]
) -> list[Option]:
    """Options whose costs are multiplied by their layer's ratio over the mean ratio; those outside layers stay."""
    mean = sum(layer.ratio for layer in attention) / len(attention)
    factor = {layer.layer: layer.ratio / mean for layer in attention}
    return [
        option.model_copy(update={"cost": option.cost * factor.get(number, 1.0)})
        if (number := layer_of[option.tensor]) is not None
        else option
        for option in options
    ]


@contextmanager
def _eager(model: Any) -> Iterator[None]:
    """Attention computed in the open until the block ends; fused kernels do not give weights."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)
