"""What a model's predictions lose when some of its tensors are replaced, run from the first changed layer on.

The parent runs once; what enters each of its layers is kept (n_layers x n_tokens x hidden floats), so a change in layer
20 of 28 costs the last eight layers and the head. Replaying unchanged weights gives the parent's logits bit for bit.
The divergence is formed without cancellation, so that those of 8-bit formats (1e-6 nats) are no rounding noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgemed.core.errors import EdgemedError, UsageError
from edgemed.core.progress import Progress, SilentProgress
from edgemed.models.checkpoint import layer_of, role_of

Floats = npt.NDArray[np.float32]

BATCH_TOKENS = 1024
"""Tokens, with padding, that run at once."""
_SMALL = 1e-2  # below, e^x - 1 - x is taken from its series: the terms cancel in float32


class WeightedText(Protocol):
    """Token ids of one text; `weights[i]` is how much the prediction of token i counts (that of token 0 never does)."""

    @property
    def ids(self) -> Sequence[int]: ...

    @property
    def weights(self) -> Floats: ...


@dataclass(frozen=True, slots=True)
class Divergence:
    """KL(parent || changed) in nats, a mean over predicted tokens."""

    weighted: float
    """By the texts' weights."""
    plain: float
    """Every token with a weight above 0 counts the same."""


@dataclass(slots=True)
class _Batch:
    """Texts, and what the parent made of them."""

    ids: Any  # (texts, length) int64, padded
    counted: Any  # (texts, length) bool: the prediction made at this position counts
    weights: Any  # (n_counted,) float32
    entering: list[Any]  # per layer, and of the final norm: (texts, length, hidden)
    arguments: list[dict[str, Any]]  # what the body hands each layer beside it
    logits: Any = None  # (n_counted, vocabulary) of the parent
    likely: Any = None  # their softmax


class LayerReplay:
    """A transformers model in float32, with its hidden states on some texts kept in its own device's memory."""

    def __init__(
        self,
        model: Any,
        texts: Sequence[WeightedText],
        batch_tokens: int = BATCH_TOKENS,
        progress: Progress | None = None,
    ) -> None:
        import torch

        check_float32(model)
        self._model = model
        self._body = model.model
        self.n_layers = len(self._body.layers)
        batches = list(_batches(texts, batch_tokens, model.device))
        with torch.inference_mode(), (progress or SilentProgress()).task("Running the parent", len(batches)) as task:
            self._batches = []
            for batch in batches:
                self._batches.append(self._run(batch))
                task.advance()

    def first_layer(self, name: str) -> int:
        """The layer a tensor belongs to; -1 for the embedding, n_layers for what comes behind the last layer."""
        layer = layer_of(name)
        if layer is not None:
            return layer
        return -1 if role_of(name) == "embedding" else self.n_layers

    def divergence(self, replaced: Mapping[str, Floats]) -> Divergence:
        """KL to the parent with the tensors of these checkpoint names replaced, (rows, columns) each.

        Raises EdgemedError when the changed model gives no finite logits.
        """
        import torch

        first = min(map(self.first_layer, replaced), default=self.n_layers)
        weighted = plain = total = count = 0.0
        with torch.inference_mode(), _with_tensors(self._model, replaced):
            for batch in self._batches:
                lost = divergence_of(batch.logits, batch.likely, self._logits(batch, first))
                weighted += float((lost * batch.weights).sum(dtype=torch.float64))
                plain += float(lost.sum(dtype=torch.float64))
                total += float(batch.weights.sum(dtype=torch.float64))
                count += len(lost)
        if not np.isfinite(weighted):
            raise EdgemedError(
                f"With {', '.join(replaced)} rounded the model gives no finite logits.",
                next_step="look at those weights; the checkpoint may be damaged",
            )
        return Divergence(weighted / total, plain / count)

    def _run(self, batch: _Batch) -> _Batch:
        def keep(_module: Any, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
            batch.entering.append(positional[0] if positional else named.pop("hidden_states"))
            batch.arguments.append(named)

        watched = [*self._body.layers, self._body.norm]
        hooks = [module.register_forward_pre_hook(keep, with_kwargs=True) for module in watched]
        try:
            self._body(input_ids=batch.ids, use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        batch.logits = self._logits(batch, self.n_layers)
        batch.likely = batch.logits.softmax(-1)
        return batch

    def _logits(self, batch: _Batch, first: int) -> Any:
        """(n_counted, vocabulary), from layer `first` on."""
        if first < 0:
            hidden = self._body(input_ids=batch.ids, use_cache=False).last_hidden_state
        else:
            hidden = batch.entering[first]
            for number in range(first, self.n_layers):
                output = self._body.layers[number](hidden, **batch.arguments[number])
                hidden = output[0] if isinstance(output, tuple) else output
            hidden = self._body.norm(hidden)
        logits = self._model.lm_head(hidden[batch.counted])
        cap = getattr(self._model.config, "final_logit_softcapping", None)
        return logits if cap is None else (logits / cap).tanh() * cap


def divergence_of(parent: Any, likely: Any, child: Any) -> Any:
    """KL(parent || child) in nats per row, of logits (n, vocabulary) and of the parent's softmax `likely`.

    With d = child - parent and e = d - sum(likely * d), KL = log(sum(likely * exp(e))) = log1p(sum(likely *
    (exp(e) - 1 - e))): every term is positive, and shifts of the logits cancel before anything is added up.
    """
    import torch

    change = child - parent
    change -= (likely * change).sum(-1, keepdim=True)
    series = change * change * (0.5 + change / 6 + change * change / 24)
    excess = torch.where(change.abs() < _SMALL, series, torch.expm1(change) - change)
    near = torch.log1p((likely * excess).sum(-1))
    far = (likely.log() + change).logsumexp(-1)  # e^x beyond float32
    return torch.where(near.isfinite(), near, far)


def check_float32(model: Any) -> None:
    """Raise UsageError unless every weight of `model` is float32."""
    import torch

    others = sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.dtype != torch.float32})
    if others:
        raise UsageError(
            f"Sensitivity is measured in float32; this model's weights are {', '.join(others)}.",
            next_step="load it with dtype=torch.float32",
        )


@dataclass(frozen=True, slots=True)
class PaddedTexts:
    """Texts of like length, (texts, length) each, padded behind their ends, which a causal model does not see."""

    ids: Any
    """int64"""
    weights: Any
    """float32; 0 for padding and for first tokens, which nothing predicts."""
    real: Any
    """bool: False for padding."""


def padded_batches(texts: Sequence[WeightedText], batch_tokens: int = BATCH_TOKENS) -> list[PaddedTexts]:
    """All texts of two tokens or more, in batches. Raises UsageError when no prediction in them counts."""
    counted_weight(texts)
    groups: list[list[WeightedText]] = []
    for text in sorted((text for text in texts if len(text.ids) > 1), key=lambda text: len(text.ids)):
        if not groups or len(text.ids) * (len(groups[-1]) + 1) > batch_tokens:
            groups.append([])
        groups[-1].append(text)
    return [_padded(group) for group in groups]


def counted_weight(texts: Sequence[WeightedText]) -> float:
    """The weights of all predictions, added up. Raises UsageError when none counts."""
    total = sum(float(np.sum(text.weights[1:], dtype=np.float64)) for text in texts)
    if total <= 0:
        raise UsageError(
            "The texts hold no token whose prediction counts.", next_step="give texts of two tokens or more"
        )
    return total


def _padded(texts: Sequence[WeightedText]) -> PaddedTexts:
    import torch

    shape = len(texts), max(len(text.ids) for text in texts)
    ids, weights = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape)
    real = torch.zeros(shape, dtype=torch.bool)
    for row, text in enumerate(texts):
        length = len(text.ids)
        ids[row, :length] = torch.tensor(list(text.ids))
        weights[row, 1:length] = torch.tensor(np.asarray(text.weights, np.float32)[1:])
        real[row, :length] = True
    return PaddedTexts(ids, weights, real)


def _batches(texts: Sequence[WeightedText], batch_tokens: int, device: Any) -> Iterator[_Batch]:
    for batch in padded_batches(texts, batch_tokens):
        ahead = batch.weights.roll(-1, dims=1)  # the prediction of token i is made at position i - 1
        counted = ahead > 0
        if counted.any():
            yield _Batch(batch.ids.to(device), counted.to(device), ahead[counted].to(device), [], [])


@contextmanager
def _with_tensors(model: Any, replaced: Mapping[str, Floats]) -> Iterator[None]:
    import torch

    originals = {name: model.get_parameter(name).data for name in replaced}
    try:
        for name, values in replaced.items():
            if values.shape != tuple(originals[name].shape):
                raise ValueError(f"{name} is {tuple(originals[name].shape)}, its replacement {values.shape}")
            parameter = model.get_parameter(name)
            parameter.data = torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(parameter.device)
        yield
    finally:
        for name, original in originals.items():
            model.get_parameter(name).data = original
